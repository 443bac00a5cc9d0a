package proxy_test

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/signing/signtest"
)

// manySignatures is the path of the signatures of a manifest.
func manySignatures(d digest.Digest) string { return "/extensions/v2/acme/app/signatures/" + string(d) }

// addService creates a signing service with a key.
func (w *world) addService(name string, key *signtest.Key) {
	w.t.Helper()
	if _, err := w.store.Signatures.AddSigningService(w.t.Context(), pulp.SigningService{
		Name: name, Class: pulp.ManifestSigningService, Kind: pulp.ServiceScript, Fingerprint: key.Public.Fingerprint(), PublicKey: key.Armor,
	}); err != nil {
		w.t.Fatal(err)
	}
}

// expectNoSignatures checks that a manifest has no signature and that its repository has the given version.
func (w *world) expectNoSignatures(d digest.Digest, version int64) {
	w.t.Helper()
	if a := w.expect(request{path: manySignatures(d)}, http.StatusOK); a.body != `{"signatures":[]}` {
		w.t.Errorf("unexpected content: %.300s", a.body)
	}
	target, err := w.store.Serving.Resolve(w.t.Context(), "acme/app")
	if err != nil || target.Repository.LatestVersion != version {
		w.t.Errorf("the repository is at version %d, %v, want %d", target.Repository.LatestVersion, err, version)
	}
}

// frame returns an OpenPGP packet with a new-format header.
func frame(tag byte, body []byte) []byte {
	b := []byte{0xc0 | tag, 255}
	return append(binary.BigEndian.AppendUint32(b, uint32(len(body))), body...)
}

// splitMessage splits a signed message into its one-pass signature, its literal data and its signature.
func splitMessage(t *testing.T, message []byte) (onePass, literal, sig []byte) {
	t.Helper()
	var cut [][]byte
	r := bytes.NewReader(message)
	for r.Len() > 0 {
		from := len(message) - r.Len()
		p, err := packet.Read(r)
		if err != nil {
			t.Fatal(err)
		}
		if l, ok := p.(*packet.LiteralData); ok {
			if _, err := io.Copy(io.Discard, l.Body); err != nil {
				t.Fatal(err)
			}
		}
		cut = append(cut, message[from:len(message)-r.Len()])
	}
	if len(cut) != 3 {
		t.Fatalf("a signature has %d packets, want 3", len(cut))
	}
	return cut[0], cut[1], cut[2]
}

// TestHostilePayloads uploads validly signed payloads that do not claim the manifest. It covers
// hostile-inputs.md#signature-of-another-manifest, #duplicate-payload-keys and #payload-shape.
func TestHostilePayloads(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d, other := w.pushImage("acme/app", "one", "v1"), w.pushImage("acme/app", "two", "v2")
	now := time.Now()
	key := signtest.NewKey(t, now.Add(-time.Hour), 0)
	w.addService("svc", key)
	good := `{"critical":{"type":"atomic container signature","image":{"docker-manifest-digest":"` + string(d) + `"},` +
		`"identity":{"docker-reference":"` + publicHost + `/acme/app:v1"}},"optional":{}}`
	put := func(payload string) response {
		raw := key.SignBytes(t, []byte(payload), signtest.Config{At: now})
		return w.send(request{as: "admin", method: http.MethodPut, path: manySignatures(d), body: signatureJSON(d, encode(raw))})
	}
	edit := func(old, with string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("no %q in the good payload", old)
		}
		return strings.Replace(good, old, with, 1)
	}
	const image = `"image":{"docker-manifest-digest":"`
	for name, payload := range map[string]string{
		"the digest of another manifest":            edit(string(d), string(other)),
		"the digest of no manifest":                 edit(string(d), string(digest.FromString("nothing"))),
		"two digests, this one last":                edit(image, image+string(other)+`","docker-manifest-digest":"`),
		"two digests, this one first":               edit(`"},"identity"`, `","docker-manifest-digest":"`+string(other)+`"},"identity"`),
		"two digests, one spelled with an escape":   edit(image, `"image":{"docker-manifest\u002ddigest":"`+string(other)+`","docker-manifest-digest":"`),
		"two equal digests":                         edit(image, image+string(d)+`","docker-manifest-digest":"`),
		"critical twice":                            edit(`{"critical"`, `{"critical":{},"critical"`),
		"image twice":                               edit(`"image"`, `"image":{},"image"`),
		"two references":                            edit(`"docker-reference"`, `"docker-reference":"evil.example/app:v1","docker-reference"`),
		"an unknown member in critical":             edit(`"critical":{`, `"critical":{"x":1,`),
		"an unknown member in image":                edit(`"image":{`, `"image":{"x":1,`),
		"an unknown member at the top":              edit(`{"critical"`, `{"x":1,"critical"`),
		"another type":                              edit("atomic container signature", "cosign container image signature"),
		"a type in capitals":                        edit("atomic container signature", "Atomic Container Signature"),
		"a member's name in capitals":               edit(`"type"`, `"Type"`),
		"a digest in upper case":                    edit(d.Encoded(), strings.ToUpper(d.Encoded())),
		"an algorithm in upper case":                edit("sha256:", "SHA256:"),
		"a short digest":                            edit(d.Encoded(), d.Encoded()[1:]),
		"a long digest":                             edit(d.Encoded(), d.Encoded()+"0"),
		"a sha1":                                    edit(string(d), "sha1:"+d.Encoded()[:40]),
		"a digest with a line break":                edit(d.Encoded(), d.Encoded()+`\n`),
		"a digest that is a list of two":            edit(`"`+string(d)+`"`, `["`+string(d)+`","`+string(other)+`"]`),
		"a second claim behind the first":           good + good,
		"a byte order mark":                         "\ufeff" + good,
		"a NUL behind it":                           good + "\x00",
		"a comment":                                 edit(`{"critical"`, `{/**/"critical"`),
		"a number that is no number in one parser":  edit(`"optional":{}`, `"optional":{"timestamp":NaN}`),
		"optional nested ten thousand times":        edit(`"optional":{}`, `"optional":{"x":`+strings.Repeat("[", 10_000)+strings.Repeat("]", 10_000)+`}`),
		"a reference with a line break":             edit("acme/app:v1", `acme/app:v1\nevil`),
		"a reference with a right-to-left override": edit("acme/app:v1", "acme/app:\u202ev1"),
	} {
		t.Run(name, func(t *testing.T) {
			if a := put(payload); a.status != http.StatusBadRequest || a.code() != "SIGNATURE_INVALID" {
				t.Errorf("response %d %.300s, want 400 SIGNATURE_INVALID", a.status, a.body)
			}
		})
	}
	w.expectNoSignatures(d, 2)
	if a := put(good); a.status != http.StatusCreated {
		t.Errorf("the valid payload: status %d %s: the cases above prove nothing", a.status, a.body)
	}
}

// TestHostileMessages uploads OpenPGP messages of valid parts that are not exactly one binary signed message. It
// covers hostile-inputs.md#malformed-message and #compressed-packet.
func TestHostileMessages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d, other := w.pushImage("acme/app", "one", "v1"), w.pushImage("acme/app", "two", "v2")
	now := time.Now()
	known, unknown := signtest.NewKey(t, now.Add(-time.Hour), 0), signtest.NewKey(t, now.Add(-time.Hour), 0)
	w.addService("svc", known)
	for whose, key := range map[string]*signtest.Key{"a known key": known, "an unknown key": unknown} {
		good, stranger := signature(t, key, d, now), signature(t, key, other, now)
		onePass, literal, sig := splitMessage(t, good)
		_, otherLiteral, otherSig := splitMessage(t, stranger)
		join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
		for name, raw := range map[string][]byte{
			"literal data alone":                   literal,
			"a cleartext-signed message":           cleartext(t, key, d),
			"a detached signature":                 sig,
			"two literal data":                     join(onePass, literal, otherLiteral, sig),
			"two literal data, the other first":    join(onePass, otherLiteral, literal, sig),
			"an unsigned literal before":           join(otherLiteral, good),
			"two signatures":                       join(onePass, literal, sig, sig),
			"two signatures, of two manifests":     join(onePass, literal, sig, otherSig),
			"two one-pass signatures":              join(onePass, onePass, literal, sig, sig),
			"a packet behind":                      join(good, literal),
			"a message behind":                     join(good, stranger),
			"a byte behind":                        join(good, []byte{0}),
			"a marker packet behind":               join(good, frame(10, []byte("PGP"))),
			"a marker packet before":               join(frame(10, []byte("PGP")), good),
			"a padding packet before":              join(frame(21, make([]byte, 16)), good),
			"a private packet before":              join(frame(60, []byte("x")), good),
			"a packet behind, compressed as one":   frame(8, inflate(t, join(good, literal))),
			"compressed in a compressed packet":    frame(8, inflate(t, frame(8, inflate(t, good)))),
			"a byte behind the compressed data":    frame(8, append(inflate(t, good), 0)),
			"a packet behind the compressed":       join(frame(8, inflate(t, good)), literal),
			"a public key":                         []byte(key.Armor),
			"armor":                                []byte("-----BEGIN PGP MESSAGE-----\n\n" + encode(good) + "\n-----END PGP MESSAGE-----\n"),
			"an encrypted packet":                  frame(18, join([]byte{1}, good)),
			"a length of four gigabytes":           join([]byte{0xc0 | 11, 255, 255, 255, 255, 255}, good),
			"a compressed packet that expands":     frame(8, inflate(t, frame(11, make([]byte, 4<<20)))),
			"the signed message and then a bomb":   frame(8, inflate(t, join(good, make([]byte, 4<<20)))),
			"half of it":                           good[:len(good)/2],
			"a signature that another key says is": withOnePassKey(t, good, onePass),
		} {
			t.Run(name+" by "+whose, func(t *testing.T) {
				w.expectError(
					request{as: "admin", method: http.MethodPut, path: manySignatures(d), body: signatureJSON(d, encode(raw))},
					http.StatusBadRequest,
					"SIGNATURE_INVALID",
				)
			})
		}
	}
	w.expectNoSignatures(d, 2)
	w.expect(
		request{
			as:     "admin",
			method: http.MethodPut,
			path:   manySignatures(d),
			body:   signatureJSON(d, encode(frame(8, inflate(t, signature(t, known, d, now))))),
		},
		http.StatusCreated,
	)
}

// withOnePassKey returns a message whose one-pass signature contains another key id than its signature.
func withOnePassKey(t *testing.T, message, onePass []byte) []byte {
	t.Helper()
	other := bytes.Clone(message)
	other[len(onePass)-2] ^= 1 // the last byte of the key's id
	return other
}

// inflate returns the content of a ZLIB-compressed packet.
func inflate(t *testing.T, message []byte) []byte {
	t.Helper()
	b := bytes.NewBuffer([]byte{2})
	w := zlib.NewWriter(b)
	if _, err := w.Write(message); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// cleartext returns a claim as a cleartext-signed message.
func cleartext(t *testing.T, key *signtest.Key, d digest.Digest) []byte {
	t.Helper()
	payload, err := signing.EncodeClaim(signing.Claim{ManifestDigest: d, DockerReference: publicHost + "/acme/app:v1"})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w, err := clearsign.Encode(&b, key.Entity.PrivateKey, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(payload); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestSignaturesThatGPGRejects modifies messages that GnuPG signed and checks that the server rejects those that
// GnuPG rejects. It covers hostile-inputs.md#bad-signature.
func TestSignaturesThatGPGRejects(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"gpg", "gpgconf"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	home, err := os.MkdirTemp("", "g") //nolint:usetesting // the agent's socket lies in it: the path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run()
		_ = os.RemoveAll(home)
	})
	gpg := func(in string, args ...string) (string, error) {
		cmd := exec.CommandContext(
			t.Context(),
			"gpg",
			append(
				[]string{
					"--homedir",
					home,
					"--batch",
					"--yes",
					"--quiet",
					"--no-tty",
					"--passphrase",
					"",
					"--pinentry-mode",
					"loopback",
				},
				args...)...)
		cmd.Stdin = strings.NewReader(in)
		out, err := cmd.Output()
		return string(out), err
	}
	must := func(in string, args ...string) string {
		t.Helper()
		out, err := gpg(in, args...)
		if err != nil {
			t.Fatalf("gpg %v: %v", args, err)
		}
		return out
	}
	must("", "--quick-generate-key", "Test <test@example.com>", "ed25519", "sign", "never")
	public := must("", "--armor", "--export", "test@example.com")
	key, err := signing.ParsePublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	d := w.pushImage("acme/app", "one", "v1")
	w.addService("svc", &signtest.Key{Public: key, Armor: public})
	claim, err := signing.EncodeClaim(signing.Claim{ManifestDigest: d, DockerReference: publicHost + "/acme/app:v1"})
	if err != nil {
		t.Fatal(err)
	}
	good := []byte(must(string(claim), "--compress-level", "0", "--sign"))
	payload := bytes.Replace(good, []byte("/acme/app:v1"), []byte("/acme/app:v2"), 1)
	value := bytes.Clone(good)
	value[len(value)-1] ^= 1
	for name, raw := range map[string][]byte{"another reference in the signed data": payload, "another number in the signature": value} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "signature")
			if err := os.WriteFile(file, raw, 0o600); err != nil {
				t.Fatal(err)
			}
			if said, err := gpg("", "--status-fd", "1", "--verify", file); err == nil ||
				!strings.Contains(said, "[GNUPG:] BADSIG ") {
				t.Fatalf("gpg does not call it bad: %v\n%s", err, said)
			}
			a := w.expectError(
				request{as: "admin", method: http.MethodPut, path: manySignatures(d), body: signatureJSON(d, encode(raw))},
				http.StatusBadRequest,
				"SIGNATURE_INVALID",
			)
			if !strings.Contains(a.body, "does not verify with the key of signing service svc") {
				t.Errorf("response %s", a.body)
			}
		})
	}
	w.expectNoSignatures(d, 1)
	w.expect(
		request{as: "admin", method: http.MethodPut, path: manySignatures(d), body: signatureJSON(d, encode(good))},
		http.StatusCreated,
	)
}

// TestSignaturesByUnknownKeys checks that signatures by unknown keys are stored as unverified, or rejected if so
// configured, and never count as signatures by a known key. It covers hostile-inputs.md#unknown-key.
// TestHostileSignaturesAreFlagged in api checks their listing.
func TestSignaturesByUnknownKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.pushImage("acme/app", "one", "v1")
	now := time.Now()
	known, unknown := signtest.NewKey(t, now.Add(-time.Hour), 0), signtest.NewKey(t, now.Add(-time.Hour), 0)
	w.addService("svc", known)
	// A signature by the unknown key that names the known key as its issuer.
	posing := *known.Entity.PrivateKey
	posing.PrivateKey = unknown.Entity.PrivateKey.PrivateKey
	pretender := *known.Entity
	pretender.PrivateKey = &posing
	forged := signature(t, &signtest.Key{Entity: &pretender}, d, now)
	if s, err := signing.Parse(forged); err != nil || !known.Public.Has(s.KeyID) {
		t.Fatalf("the forged signature is by %s, %v", s.KeyID, err)
	}
	put := func(status int, code string, raw []byte) {
		t.Helper()
		w.expectError(
			request{as: "admin", method: http.MethodPut, path: manySignatures(d), body: signatureJSON(d, encode(raw))},
			status,
			code,
		)
	}
	put(http.StatusBadRequest, "SIGNATURE_INVALID", forged)
	w.options.RefuseUnknownKeys = true
	w.restart()
	put(http.StatusBadRequest, "SIGNATURE_INVALID", forged)
	put(http.StatusBadRequest, "SIGNATURE_INVALID", signature(t, unknown, d, now))
	w.expectNoSignatures(d, 1)
	w.options.RefuseUnknownKeys = false
	w.restart()
	put(http.StatusCreated, "", signature(t, unknown, d, now))
	put(http.StatusCreated, "", signature(t, known, d, now))
	target, err := w.store.Serving.Resolve(t.Context(), "acme/app")
	if err != nil {
		t.Fatal(err)
	}
	m, err := w.store.Serving.ServedManifest(t.Context(), target, string(d))
	if err != nil {
		t.Fatal(err)
	}
	kept, err := w.store.Serving.ServedSignatures(t.Context(), target, m.ID)
	if err != nil || len(kept) != 2 {
		t.Fatalf("%d signatures are kept, %v, want 2", len(kept), err)
	}
	for _, g := range kept {
		want := ""
		if known.Public.Has(g.KeyID) {
			want = known.Public.Fingerprint()
		}
		if g.VerifiedBy != want {
			t.Errorf("the signature by %s is kept as verified by %q, want %q", g.KeyID, g.VerifiedBy, want)
		}
	}
}
