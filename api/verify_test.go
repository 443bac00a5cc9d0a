package api_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/signing/signtest"
)

// signingKey is an OpenPGP key for tests.
type signingKey struct {
	entity *openpgp.Entity
	public []byte // binary
}

func newSigningKey(t *testing.T) signingKey {
	t.Helper()
	entity, err := openpgp.NewEntity("test", "", "test@example.com", nil)
	if err != nil {
		t.Fatal(err)
	}
	var public bytes.Buffer
	if err := entity.Serialize(&public); err != nil {
		t.Fatal(err)
	}
	return signingKey{entity, public.Bytes()}
}

func (k signingKey) fingerprint() string { return fmt.Sprintf("%X", k.entity.PrimaryKey.Fingerprint) }

func (k signingKey) armored(t *testing.T) string {
	t.Helper()
	var text bytes.Buffer
	w, err := armor.Encode(&text, openpgp.PublicKeyType, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(k.public); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// signWith stores a valid signature of a manifest and returns the version that it creates.
func (w *world) signWith(k signingKey, target record.Target, manifest digest.Digest, reference string) pulp.Version {
	w.t.Helper()
	claim, err := signing.EncodeClaim(signing.Claim{ManifestDigest: manifest, DockerReference: reference})
	if err != nil {
		w.t.Fatal(err)
	}
	var raw bytes.Buffer
	in, err := openpgp.Sign(&raw, k.entity, nil, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := in.Write(claim); err != nil {
		w.t.Fatal(err)
	}
	if err := in.Close(); err != nil {
		w.t.Fatal(err)
	}
	s, err := signing.Parse(raw.Bytes())
	if err != nil {
		w.t.Fatal(err)
	}
	v, err := w.store.Signatures.PutSignature(w.t.Context(), target.Repository.ID, manifest, pulp.Signature{
		Digest: signing.Digest(raw.Bytes()), Name: signing.Name(manifest, raw.Bytes()), Content: raw.Bytes(), KeyID: s.KeyID,
		Reference: reference, SignedAt: s.CreatedAt.Unix(),
	})
	if err != nil || v == nil {
		w.t.Fatal(v, err)
	}
	return *v
}

// serviceOf adds a signing service with a key and returns its href.
func (w *world) serviceOf(k signingKey, name string) string {
	w.t.Helper()
	v, err := w.store.Signatures.AddSigningService(w.t.Context(), pulp.SigningService{
		Name: name, Class: pulp.ManifestSigningService, Kind: pulp.ServiceScript, Script: "/srv/sign.sh", Fingerprint: k.fingerprint(), PublicKey: k.armored(
			w.t,
		),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return pulp.Href(pulp.SigningServiceCollection, v.ID)
}

func (k signingKey) signedBy(more string) string {
	return `{"type":"signedBy","keyType":"GPGKeys","keyData":"` + base64.StdEncoding.EncodeToString(
		k.public,
	) + `"` + more + `}`
}

// dig returns the value at a path of names and indexes in a JSON value.
func dig(t *testing.T, v any, path ...any) any {
	t.Helper()
	for _, step := range path {
		switch s := step.(type) {
		case string:
			object, ok := v.(map[string]any)
			if !ok {
				t.Fatalf("no object at %q of %v: %v", s, path, v)
			}
			v = object[s]
		case int:
			list, ok := v.([]any)
			if !ok || s >= len(list) {
				t.Fatalf("no element %d of %v: %v", s, path, v)
			}
			v = list[s]
		}
	}
	return v
}

const (
	app       = "registry.example:8443/acme/app:"
	rejectAll = `{"default":[{"type":"reject"}]}`
)

// TestSignaturesShowTheirServices proves that signatures show the signing services with their key, also services that
// were added later.
func TestSignaturesShowTheirServices(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	known, unknown := newSigningKey(t), newSigningKey(t)
	w.signWith(known, w.repo, w.manifest, app+"latest")
	w.signWith(unknown, w.repo, w.manifest, app+"other")
	first, second := w.serviceOf(known, "a"), w.serviceOf(known, "b")
	want := map[string]string{ // by reference; other signatures have no OpenPGP message
		app + "latest": fmt.Sprint(true, []any{first, second}), app + "other": fmt.Sprint(false, []any{}),
	}
	found := 0
	for _, r := range w.get("content/container/signatures/")["results"].([]any) {
		g := r.(map[string]any)
		reference := g["docker_reference"].(string)
		if g["key_id"] == "D1B86E06B4D88886" {
			if g["verified"] != false {
				t.Errorf("invalid content is verified: %v", g)
			}
			continue
		}
		found++
		if got := fmt.Sprint(g["verified"], g["signing_services"]); got != want[reference] {
			t.Errorf("%s: %s, want %s", reference, got, want[reference])
		}
		if read := w.get(g["pulp_href"].(string)); read["verified"] != g["verified"] {
			t.Errorf("reading %s alone: %v", reference, read)
		}
	}
	if found != 2 {
		t.Errorf("%d signatures", found)
	}
}

// TestVerify compares reports about the signers of tags, and verdicts of policies.
func TestVerify(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	known, unknown := newSigningKey(t), newSigningKey(t)
	service := w.serviceOf(known, "svc")
	w.signWith(known, w.repo, w.manifest, app+"latest")
	before := w.signWith(unknown, w.repo, w.manifest, app+"latest")
	verify := func(body string, status int) any {
		t.Helper()
		return w.expect(call{method: http.MethodPost, path: w.repoHref() + "verify/", json: body}, status, "").body
	}
	got := verify(`{"tag":"latest"}`, http.StatusOK)
	if d := dig(
		t, got, "digest",
	); d != string(w.manifest) || dig(t, got, "accepted") != nil || len(dig(t, got, "verdicts").([]any)) != 0 {
		t.Errorf("without a policy: %v", got)
	}
	signatures := dig(t, got, "manifests", 0, "signatures").([]any)
	if len(signatures) != 4 {
		t.Fatalf("%d signatures", len(signatures))
	}
	ours, theirs := signatures[2], signatures[3]
	if dig(
		t, ours, "verified",
	) != true || dig(
		t, ours, "key_fingerprint",
	) != known.fingerprint() || dig(t, ours, "signing_services", 0, "pulp_href") != service ||
		dig(
			t, ours, "signing_services", 0, "name",
		) != "svc" || dig(t, ours, "docker_reference") != app+"latest" || dig(t, ours, "reason") != nil {
		t.Errorf("signature by a service: %v", ours)
	}
	if dig(
		t, theirs, "verified",
	) != false || dig(
		t, theirs, "reason",
	) != "The signature is by another key." || len(dig(t, theirs, "signing_services").([]any)) != 0 {
		t.Errorf("signature by an unknown key: %v", theirs)
	}

	// With a policy, its keys verify signatures too, and every requirement has a result.
	policy := `{"default":[{"type":"reject"}],"transports":{"docker":{"registry.example:8443/acme":[` + unknown.signedBy("") + `,` +
		known.signedBy(`,"signedIdentity":{"type":"exactReference","dockerReference":"elsewhere.example/a:1"}`) + `]}}}`
	got = verify(`{"tag":"latest","policy":`+policy+`}`, http.StatusOK)
	verdict := dig(t, got, "verdicts", 0)
	if dig(
		t, got, "accepted",
	) != false || dig(
		t, verdict, "reference",
	) != app+"latest" || dig(t, verdict, "manifests", 0, "scope") != "registry.example:8443/acme" {
		t.Errorf("%v", verdict)
	}
	if r := dig(
		t, verdict, "manifests", 0, "requirements", 0,
	); dig(
		t, r, "accepted",
	) != true || dig(t, r, "signature") != dig(t, theirs, "pulp_href") || dig(t, r, "reason") != nil {
		t.Errorf("the first requirement: %v", r)
	}
	r := dig(t, verdict, "manifests", 0, "requirements", 1)
	if dig(t, r, "accepted") != false || dig(t, r, "rejected", 2, "reason") != "the signature is for "+app+"latest" {
		t.Errorf("the second requirement: %v", r)
	}
	if dig(t, got, "manifests", 0, "signatures", 3, "verified") != true {
		t.Errorf("a key of the policy does not verify: %v", got)
	}
	accepting := `{"default":[` + known.signedBy("") + `]}`
	for reference, want := range map[string]bool{
		app + "latest": true, app + "1.0": false, "elsewhere.example/app:latest": false,
	} {
		if got := verify(
			`{"tag":"latest","reference":"`+reference+`","policy":`+accepting+`}`, http.StatusOK,
		); dig(t, got, "accepted") != want {
			t.Errorf("%s: %v", reference, got)
		}
	}

	// An index is accepted when its images are.
	index := verify(`{"tag":"multi","policy":`+accepting+`}`, http.StatusOK)
	manifests := dig(t, index, "manifests").([]any)
	if len(manifests) != 3 || dig(t, index, "accepted") != false {
		t.Fatalf("an index: %v", index)
	}
	for _, m := range manifests[1:] {
		w.signWith(known, w.repo, digest.Digest(dig(t, m, "digest").(string)), app+"multi")
	}
	index = verify(`{"tag":"multi","policy":`+accepting+`}`, http.StatusOK)
	if dig(
		t, index, "accepted",
	) != true || dig(
		t, index, "verdicts", 0, "manifests", 0, "accepted",
	) != false || dig(t, index, "verdicts", 0, "manifests", 1, "accepted") != true {
		t.Errorf("an index with signed images: %v", index)
	}

	// An older version lacks the second signature.
	number := before.Number - 1
	old := verify(fmt.Sprintf(`{"tag":"latest","repository_version":"%s","reference":"%slatest","policy":%s}`,
		pulp.VersionHref(pulp.ContainerPush, w.repo.Repository.ID, number), app, accepting), http.StatusOK)
	if got := dig(t, old, "manifests", 0, "signatures").([]any); len(got) != 3 || dig(t, old, "accepted") != true {
		t.Errorf("version %d: %v", number, old)
	}
}

// TestVerifyRefuses proves that invalid requests are refused, and that verify/ reveals nothing of hidden repositories.
func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	key := newSigningKey(t)
	old := pulp.VersionHref(pulp.ContainerPush, w.repo.Repository.ID, 1)
	many := `{"default":[` + strings.Repeat(`{"type":"reject"},`, 20) + `{"type":"reject"}]}`
	var keys []string
	for i := range 6 {
		keys = append(
			keys, fmt.Sprintf(`"%d.example":[%s]`, i, strings.TrimSuffix(strings.Repeat(key.signedBy("")+",", 20), ",")),
		)
	}
	for body, want := range map[string]string{
		`{"tag":"latest","policy":{"default":[{"type":"reject"}],"transports":{"docker":{` + strings.Join(
			keys, ",",
		) + `}}}}`: `"policy":["The policy has more than 100 keys."]`,
		`{}`:                                   `"tag":["This field is required."]`,
		`{"tag":"absent"}`:                     `"tag":["The repository version has no such tag."]`,
		`{"tag":"-"}`:                          `"tag":[`,
		`{"tag":"` + string(w.manifest) + `"}`: `"tag":[`,
		`{"tag":"latest","colour":"red"}`:      `"colour":["Unexpected field"]`,
		`{"tag":"latest","reference":"a/b:1"}`: `"reference":["This field requires the field policy."]`,
		`{"tag":"latest","policy":[]}`:         `"policy":["Not a policy: the value is not an object."]`,
		`{"tag":"latest","policy":{}}`:         `"policy":["Not a policy: \"default\" is missing."]`,
		`{"tag":"latest","policy":"{"}`:        `"policy":["Not a policy: it is not JSON."]`,
		`{"tag":"latest","policy":{"default":[],"default":[{}]}}`:                                                       `occurs twice`,
		`{"tag":"latest","policy":` + many + `}`:                                                                        `"policy":["The policy has a list of more than 20 requirements."]`,
		`{"tag":"latest","reference":"a b","policy":` + rejectAll + `}`:                                                 `"reference":["`,
		`{"tag":"latest","policy":{"default":[{"type":"signedBy","keyType":"GPGKeys","keyPath":"/etc/passwd"}]}}`:       `keyData`,
		`{"tag":"latest","reference":"a.example/b@` + digest.FromString("x").String() + `","policy":` + rejectAll + `}`: `"reference":["The manifest does not have`,
		`{"tag":"2.0","repository_version":"` + old + `","policy":` + rejectAll + `}`:                                   `"tag":["The repository version has no such tag."]`,
		`{"tag":"latest","repository_version":"` + old + `","policy":{"default":[` + key.signedBy("") + `]}}`:           `"reference":["This field is required since no distribution serves the repository version."]`,
		`{"tag":"latest","repository_version":"/pulp/api/v3/nothing/"}`:                                                 `"repository_version":[`,
	} {
		if r := w.do(
			call{method: http.MethodPost, path: w.repoHref() + "verify/", json: body},
		); r.StatusCode != http.StatusBadRequest || !strings.Contains(r.raw, want) {
			t.Errorf("%s: %d %s, want %s", body, r.StatusCode, r.raw, want)
		}
	}
	w.expect(
		call{method: http.MethodPost, path: w.repoHref() + "verify/", json: `{"tag":"latest"}`, user: "-"},
		http.StatusUnauthorized, "",
	)
	if err := w.store.Catalog.SetPrivate(t.Context(), "acme/app", true); err != nil {
		t.Fatal(err)
	}
	w.expect(
		call{method: http.MethodPost, path: w.repoHref() + "verify/", json: `{"tag":"latest"}`, user: "carol"},
		http.StatusNotFound, "",
	)
	w.expect(
		call{method: http.MethodPost, path: w.repoHref() + "verify/", json: `{"tag":"latest"}`, user: "acme"}, http.StatusOK,
		"",
	)
}

// TestVerifyRefusesExpensiveKeys proves that verify/ does not compute with keys that are expensive to read: a DSA key
// of 35 kB with 300 self-signatures takes twelve seconds. Requirements with such keys are reported as not evaluated,
// unless the signature is invalid for another reason or another key of the requirement accepts it.
func TestVerifyRefusesExpensiveKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	known, hostile := newSigningKey(t), signtest.HostileDSA(8192)
	ring := hostile.Ring(hostile.Named("x", 300))
	put := func(raw []byte, reference string) {
		t.Helper()
		s, err := signing.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.store.Signatures.PutSignature(t.Context(), w.repo.Repository.ID, w.manifest, pulp.Signature{
			Digest: signing.Digest(
				raw,
			), Name: signing.Name(
				w.manifest, raw,
			), Content: raw, KeyID: s.KeyID, Reference: reference, SignedAt: s.CreatedAt.Unix(),
		}); err != nil {
			t.Fatal(err)
		}
	}
	claim, err := signing.EncodeClaim(signing.Claim{ManifestDigest: w.manifest, DockerReference: app + "latest"})
	if err != nil {
		t.Fatal(err)
	}
	put(hostile.Message(claim), app+"latest")
	w.signWith(known, w.repo, w.manifest, app+"latest")
	signedBy := func(keys ...[]byte) string {
		return `{"type":"signedBy","keyType":"GPGKeys","keyData":"` + base64.StdEncoding.EncodeToString(
			slices.Concat(keys...),
		) + `"}`
	}
	for name, c := range map[string]struct {
		tag, requirement    string
		accepted, evaluated bool
		reason              string
	}{
		"by the hostile key": {tag: "latest", requirement: signedBy(ring), reason: "uses DSA"},
		"by another key of the requirement": {
			tag: "latest", requirement: signedBy(ring, known.public), accepted: true, evaluated: true,
		},
		"for another reference": {
			tag: "1.0", requirement: signedBy(ring), evaluated: true, reason: "none of the signatures",
		},
		"a ring with 11,000 packets": {
			tag: "latest", requirement: signedBy(known.public, bytes.Repeat(signtest.Packet(12, nil), 11_000)),
			reason: "more than 10000 packets",
		},
		"a key with 300 self-signatures": {
			tag: "latest", requirement: signedBy(rsaRing(300)), evaluated: true, reason: "none of the signatures",
		},
		"too many packets, but no signature": {
			tag: "multi", requirement: signedBy(bytes.Repeat(signtest.Packet(6, nil), 11_000)), evaluated: true,
			reason: "there is none",
		},
	} {
		got := w.expect(
			call{
				method: http.MethodPost, path: w.repoHref() + "verify/",
				json: `{"tag":"` + c.tag + `","reference":"` + app + c.tag +
					`","policy":{"default":[` + c.requirement + `]}}`,
			},
			http.StatusOK, "",
		).body
		r := dig(t, got, "verdicts", 0, "manifests", 0, "requirements", 0)
		reason, _ := dig(t, r, "reason").(string)
		if dig(
			t, r, "accepted",
		) != c.accepted || dig(t, r, "evaluated") != c.evaluated || !strings.Contains(reason, c.reason) {
			t.Errorf("%s: %v", name, r)
		}
	}
}

func rsaRing(signatures int) []byte {
	key := signtest.HostileRSA(8192, 0xfffffd)
	return key.Ring(key.Named("x", signatures))
}
