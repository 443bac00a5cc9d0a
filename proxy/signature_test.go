package proxy_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/signing/signtest"
)

// signatureJSON returns the body of a PUT of a signature.
func signatureJSON(d digest.Digest, content string) string {
	b, _ := json.Marshal(
		map[string]any{
			"schemaVersion": 2,
			"type":          "atomic",
			"name":          string(d) + "@" + strings.Repeat("0", 32),
			"content":       content,
			"more":          true,
		},
	)
	return string(b)
}

func signature(t *testing.T, k *signtest.Key, d digest.Digest, at time.Time) []byte {
	t.Helper()
	return k.Sign(
		t,
		signing.Claim{ManifestDigest: d, DockerReference: publicHost + "/acme/app:v1", Creator: "test"},
		at,
	)
}

func encode(raw []byte) string { return base64.StdEncoding.EncodeToString(raw) }

func TestSignatures(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.pushImage("acme/app", "one", "v1")
	path := "/extensions/v2/acme/app/signatures/" + string(d)
	if a := w.expect(request{path: path}, http.StatusOK); a.body != `{"signatures":[]}` {
		t.Errorf("an unsigned manifest: %s", a.body)
	}
	key := signtest.NewKey(t, time.Now().Add(-time.Hour), 0)
	raw := signature(t, key, d, time.Now())
	for range 2 { // a repeated upload succeeds and changes nothing
		a := w.expect(
			request{as: "admin", method: http.MethodPut, path: path, body: signatureJSON(d, encode(raw))},
			http.StatusCreated,
		)
		if a.header.Get("Location") != path || a.body != "" {
			t.Errorf("PUT: response %+v", a)
		}
	}
	get := w.expect(request{path: path}, http.StatusOK)
	want := `{"signatures":[{"schemaVersion":2,"type":"atomic","name":"` + signing.Name(
		d,
		raw,
	) + `","content":"` + encode(
		raw,
	) + `"}]}`
	if get.body != want || get.header.Get("Content-Type") != "application/json" {
		t.Errorf("GET: %s, want %s", get.body, want)
	}
	head := w.expect(request{method: http.MethodHead, path: path}, http.StatusOK)
	if head.header.Get("Content-Length") != get.header.Get("Content-Length") || head.body != "" {
		t.Errorf("HEAD: response %v", head.header)
	}
	target, err := w.store.Serving.Resolve(t.Context(), "acme/app")
	if err != nil || target.Repository.LatestVersion != 2 {
		t.Errorf("the repository is at version %d, %v, want 2", target.Repository.LatestVersion, err)
	}

	// A signature can be uploaded before its pending manifest has a tag.
	pending := w.pushImage("acme/app", "two", "")
	early := signature(t, key, pending, time.Now())
	path = "/extensions/v2/acme/app/signatures/" + string(pending)
	w.expect(
		request{as: "admin", method: http.MethodPut, path: path, body: signatureJSON(pending, encode(early))},
		http.StatusCreated,
	)
	w.pushImage("acme/app", "two", "v2")
	if a := w.expect(request{path: path}, http.StatusOK); !strings.Contains(a.body, encode(early)) {
		t.Errorf("the signature is not in the version of its manifest: %s", a.body)
	}
}

func TestBadSignatures(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d, other := w.pushImage("acme/app", "one", "v1"), w.pushImage("acme/app", "two", "v2")
	now := time.Now()
	known, unknown := signtest.NewKey(t, now.Add(-time.Hour), 0), signtest.NewKey(t, now.Add(-time.Hour), 0)
	if _, err := w.store.Signatures.AddSigningService(t.Context(), pulp.SigningService{
		Name: "svc", Class: pulp.ManifestSigningService, Kind: pulp.ServiceScript, Fingerprint: known.Public.Fingerprint(), PublicKey: known.Armor,
	}); err != nil {
		t.Fatal(err)
	}
	good := signature(t, known, d, now)
	tampered := append([]byte{}, good...)
	tampered[len(tampered)-3] ^= 1
	path := "/extensions/v2/acme/app/signatures/" + string(d)
	const invalid = "SIGNATURE_INVALID"
	field := func(old, with string) string { return strings.Replace(signatureJSON(d, encode(good)), old, with, 1) }
	tests := map[string]struct {
		path, body string
		status     int
		code, says string
	}{
		"another manifest's": {
			path:   path,
			body:   signatureJSON(d, encode(signature(t, known, other, now))),
			status: http.StatusBadRequest,
			code:   invalid,
			says:   "another manifest",
		},
		"a known key that is not right": {
			path:   path,
			body:   signatureJSON(d, encode(tampered)),
			status: http.StatusBadRequest,
			code:   invalid,
			says:   "does not verify",
		},
		"one from the future": {
			path:   path,
			body:   signatureJSON(d, encode(signature(t, unknown, d, now.Add(6*time.Minute)))),
			status: http.StatusBadRequest,
			code:   invalid,
			says:   "future",
		},
		"no OpenPGP": {
			path:   path,
			body:   signatureJSON(d, encode([]byte("hello"))),
			status: http.StatusBadRequest,
			code:   invalid,
			says:   string(d),
		},
		"no base64": {
			path:   path,
			body:   signatureJSON(d, "!!!"),
			status: http.StatusBadRequest,
			code:   invalid,
			says:   "signature invalid",
		},
		"base64 with a line break": {
			path:   path,
			body:   signatureJSON(d, encode(good)[:8]+"\n"+encode(good)[8:]),
			status: http.StatusBadRequest,
			code:   invalid,
		},
		"base64 without its padding": {
			path:   path,
			body:   signatureJSON(d, strings.TrimRight(encode(append(good, 1, 2)), "=")),
			status: http.StatusBadRequest,
			code:   invalid,
		},
		"no JSON": {
			path:   path,
			body:   "{",
			status: http.StatusBadRequest,
			code:   invalid,
			says:   "signature invalid",
		},
		"a list": {
			path:   path,
			body:   "[]",
			status: http.StatusBadRequest,
			says:   `{"non_field_errors":["Invalid data. Expected a dictionary, but got list."]}`,
		},
		"no fields": {path: path, body: "{}", status: http.StatusBadRequest,
			says: `{"content":["This field is required."],"name":["This field is required."],"schemaVersion":["This field is required."],"type":["This field is required."]}`},
		"wrong fields": {
			path:   path,
			body:   `{"schemaVersion":1,"type":"gpg","name":"x","content":""}`,
			status: http.StatusBadRequest,
			says:   `{"content":["This field may not be blank."],"name":["This value does not match the required pattern."],"schemaVersion":["Ensure this value is greater than or equal to 2."],"type":["\"gpg\" is not a valid choice."]}`,
		},
		"nulls": {
			path:   path,
			body:   `{"schemaVersion":null,"type":null,"name":null,"content":null}`,
			status: http.StatusBadRequest,
			says:   `{"content":["This field may not be null."],"name":["This field may not be null."],"schemaVersion":["This field may not be null."],"type":["This field may not be null."]}`,
		},
		"a version that is a text": {
			path:   path,
			body:   field(`"schemaVersion":2`, `"schemaVersion":"2"`),
			status: http.StatusBadRequest,
			says:   "A valid integer is required.",
		},
		"a name that is a number": {
			path:   path,
			body:   field(`"type":"atomic"`, `"type":5`),
			status: http.StatusBadRequest,
			says:   "Not a valid string.",
		},
		"too much": {
			path:   path,
			body:   signatureJSON(d, strings.Repeat("A", 4_000_000)),
			status: http.StatusRequestEntityTooLarge,
			code:   invalid,
		},
		"an unknown manifest": {
			path:   "/extensions/v2/acme/app/signatures/" + string(digest.FromString("x")),
			body:   signatureJSON(d, encode(good)),
			status: http.StatusNotFound,
			code:   "MANIFEST_UNKNOWN",
		},
		"an unknown repository": {
			path:   "/extensions/v2/acme/none/signatures/" + string(d),
			body:   signatureJSON(d, encode(good)),
			status: http.StatusNotFound,
			code:   "NAME_UNKNOWN",
		},
		"a tag": {
			path:   "/extensions/v2/acme/app/signatures/v1",
			body:   signatureJSON(d, encode(good)),
			status: http.StatusNotFound,
			code:   "NOT_FOUND",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if a := w.expectError(request{as: "admin", method: http.MethodPut, path: tt.path, body: tt.body}, tt.status, tt.code); !strings.Contains(
				a.body,
				tt.says,
			) {
				t.Errorf("response %.400s, want %s", a.body, tt.says)
			}
		})
	}
	if a := w.send(request{path: path}); a.body != `{"signatures":[]}` {
		t.Errorf("unexpected content: %.300s", a.body)
	}
	w.expect(
		request{as: "admin", method: http.MethodPut, path: path, body: signatureJSON(d, encode(signature(t, unknown, d, now)))},
		http.StatusCreated,
	)
	w.expect(request{as: "admin", method: http.MethodPut, path: path, body: signatureJSON(d, encode(good))}, http.StatusCreated)
	w.options.RefuseUnknownKeys = true
	w.restart()
	w.expectError(
		request{
			as:     "admin",
			method: http.MethodPut,
			path:   path,
			body:   signatureJSON(d, encode(signature(t, unknown, d, now.Add(-time.Second)))),
		},
		http.StatusBadRequest,
		invalid,
	)
	w.expect(
		request{
			as:     "admin",
			method: http.MethodPut,
			path:   path,
			body:   signatureJSON(d, encode(signature(t, known, d, now.Add(-time.Second)))),
		},
		http.StatusCreated,
	)
	for _, method := range []string{http.MethodPost, http.MethodDelete} {
		if a := w.expectError(request{as: "admin", method: method, path: path, body: "x"}, http.StatusMethodNotAllowed, "UNSUPPORTED"); a.header.Get(
			"Allow",
		) != "GET, HEAD, PUT" {
			t.Errorf("%s: Allow %q", method, a.header.Get("Allow"))
		}
	}
	w.expectError(
		request{method: http.MethodPut, path: path, body: signatureJSON(d, encode(good))},
		http.StatusUnauthorized,
		"UNAUTHORIZED",
	)
	w.expectError(
		request{as: "carol", method: http.MethodPut, path: path, body: signatureJSON(d, encode(good))},
		http.StatusUnauthorized,
		"UNAUTHORIZED",
	)
}

// TestTooManySignatures checks the response if a manifest has too many signatures. The store enforces the limit. It
// covers hostile-inputs.md#signature-flood.
func TestTooManySignatures(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.pushImage("acme/app", "one", "v1")
	target, err := w.store.Serving.Resolve(t.Context(), "acme/app")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 { // signatures of the maximum size by an unknown key
		big := []byte(strings.Repeat(string(rune('a'+i)), 299_000))
		if _, err := w.store.Signatures.PutSignature(t.Context(), target.Repository.ID, d, pulp.Signature{Digest: signing.Digest(big), Content: big, Reference: "x"}); err != nil {
			break
		}
	}
	key := signtest.NewKey(t, time.Now().Add(-time.Hour), 0)
	padded := key.Sign(
		t,
		signing.Claim{
			ManifestDigest:  d,
			DockerReference: publicHost + "/acme/app:v1",
			Creator:         strings.Repeat("x", 1000),
		},
		time.Now(),
	)
	path := "/extensions/v2/acme/app/signatures/" + string(d)
	status := 0
	for i := 0; i < 400 && status != http.StatusTooManyRequests; i++ {
		status = w.send(
			request{
				as:     "admin",
				method: http.MethodPut,
				path:   path,
				body:   signatureJSON(d, encode(signature(t, key, d, time.Now().Add(-time.Duration(i)*time.Second)))),
			},
		).status
	}
	if status != http.StatusTooManyRequests {
		status = w.send(request{as: "admin", method: http.MethodPut, path: path, body: signatureJSON(d, encode(padded))}).status
	}
	if status != http.StatusTooManyRequests {
		t.Errorf("the signature above the limit: status %d, want 429", status)
	}
	if a := w.expect(request{path: path}, http.StatusOK); len(a.body) > pulp.MaxSignatureBody {
		t.Errorf("the response has %d bytes, more than clients read", len(a.body))
	}
}
