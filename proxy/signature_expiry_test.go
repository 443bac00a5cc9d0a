package proxy_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/signing/signtest"
)

// TestExpiredSignatures checks that expired signatures, signatures by revoked keys and signatures from the future are
// rejected, and that a stored signature is served after it expires, since clients check that themselves. It covers
// hostile-inputs.md#expired-signature. TestHostileSignaturesAreFlagged in api checks their listing.
func TestExpiredSignatures(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.pushImage("acme/app", "one", "v1")
	now := time.Now()
	claim, err := signing.EncodeClaim(signing.Claim{ManifestDigest: d, DockerReference: publicHost + "/acme/app:v1"})
	if err != nil {
		t.Fatal(err)
	}
	key, unknown := signtest.NewKey(t, now.Add(-24*time.Hour), 0), signtest.NewKey(t, now.Add(-24*time.Hour), 0)
	spent, revoked := signtest.NewKey(
		t,
		now.Add(-24*time.Hour),
		time.Hour,
	), signtest.NewKey(
		t,
		now.Add(-24*time.Hour),
		0,
	)
	young := signtest.NewKey(t, now.Add(-time.Minute), 0)
	bySpent, byRevoked := signature(t, spent, d, now.Add(-23*time.Hour-30*time.Minute)), signature(t, revoked, d, now)
	if err := revoked.Entity.RevokeKey(packet.KeyCompromised, "lost", nil); err != nil {
		t.Fatal(err)
	}
	revoked.Export(t)
	for name, k := range map[string]*signtest.Key{"svc": key, "spent": spent, "revoked": revoked, "young": young} {
		w.addService(name, k)
	}
	expired := key.SignBytes(t, claim, signtest.Config{At: now.Add(-2 * time.Hour), Lifetime: time.Hour})
	for name, tt := range map[string]struct {
		raw []byte
		key *signtest.Key
		why string // in the error of Verify
	}{
		"a signature that has expired":              {raw: expired, key: key, why: "it has expired"},
		"a signature that has just expired":         {raw: key.SignBytes(t, claim, signtest.Config{At: now.Add(-time.Minute), Lifetime: time.Second}), key: key, why: "it has expired"},
		"a signature that has expired, unknown":     {raw: unknown.SignBytes(t, claim, signtest.Config{At: now.Add(-2 * time.Hour), Lifetime: time.Hour}), key: unknown, why: "it has expired"},
		"a signature by a key that has expired":     {raw: bySpent, key: spent, why: "its key has expired"},
		"a signature by a key that was revoked":     {raw: byRevoked, key: revoked, why: "its key was revoked"},
		"a signature of six minutes ahead":          {raw: signature(t, key, d, now.Add(6*time.Minute)), key: key, why: "in the future"},
		"a signature of six minutes ahead, unknown": {raw: signature(t, unknown, d, now.Add(6*time.Minute)), key: unknown, why: "in the future"},
		"a signature of eighty years ahead":         {raw: signature(t, key, d, now.AddDate(79, 0, 0)), key: key, why: "in the future"},
		"a signature that is older than its key":    {raw: signature(t, &signtest.Key{Entity: backdated(young)}, d, now.Add(-2*time.Minute)), key: young, why: "older than its key"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := signing.Verify(tt.raw, tt.key.Public, now); err == nil ||
				!strings.Contains(err.Error(), tt.why) {
				t.Errorf("Verify = %v, want %q", err, tt.why)
			}
			w.expectError(
				request{as: "admin", method: http.MethodPut, path: manySignatures(d), body: signatureJSON(d, encode(tt.raw))},
				http.StatusBadRequest,
				"SIGNATURE_INVALID",
			)
		})
	}
	w.expectNoSignatures(d, 1)
	w.expect(
		request{
			as:     "admin",
			method: http.MethodPut,
			path:   manySignatures(d),
			body:   signatureJSON(d, encode(signature(t, key, d, now.Add(4*time.Minute)))),
		},
		http.StatusCreated,
	)

	target, err := w.store.Serving.Resolve(t.Context(), "acme/app")
	if err != nil {
		t.Fatal(err)
	}
	said, err := signing.Parse(expired)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.store.Signatures.PutSignature(t.Context(), target.Repository.ID, d, pulp.Signature{ // stored before it expired
		Digest: signing.Digest(expired), Name: signing.Name(d, expired), Content: expired, KeyID: said.KeyID, Fingerprint: &said.Fingerprint,
		VerifiedBy: key.Public.Fingerprint(), Reference: said.Claim.DockerReference, SignedAt: said.CreatedAt.Unix(),
	}); err != nil {
		t.Fatal(err)
	}
	if a := w.expect(request{path: manySignatures(d)}, http.StatusOK); !strings.Contains(a.body, encode(expired)) {
		t.Errorf("a signature that expired after its upload is not served: %.300s", a.body)
	}
}

// backdated returns a copy of a key that can sign at times before its creation, as a thief could.
func backdated(key *signtest.Key) *openpgp.Entity {
	e := *key.Entity
	identities := map[string]*openpgp.Identity{}
	for name, id := range key.Entity.Identities {
		i, self := *id, *id.SelfSignature
		self.CreationTime = self.CreationTime.Add(-time.Hour)
		i.SelfSignature = &self
		identities[name] = &i
	}
	private, public := *e.PrivateKey, *e.PrimaryKey
	public.CreationTime = public.CreationTime.Add(-time.Hour)
	private.CreationTime = public.CreationTime
	e.PrivateKey, e.PrimaryKey, e.Identities = &private, &public, identities
	return &e
}

// TestHostileSignatureBodies uploads bodies that are too large, and content that only some base64 decoders accept. It
// covers hostile-inputs.md#oversized-signature.
func TestHostileSignatureBodies(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.pushImage("acme/app", "one", "v1")
	key := signtest.NewKey(t, time.Now().Add(-time.Hour), 0)
	raw := signature(t, key, d, time.Now())
	for len(raw)%3 != 1 { // so that its base64 ends with two padding characters
		claim := signing.Claim{
			ManifestDigest:  d,
			DockerReference: publicHost + "/acme/app:v1",
			Creator:         strings.Repeat("x", len(raw)%3+1),
		}
		raw = key.Sign(t, claim, time.Now())
	}
	good := encode(raw)
	sized := func(n int) string { return signatureJSON(d, strings.Repeat("A", n-len(signatureJSON(d, "")))) }
	whole := func(content string) string { return signatureJSON(d, content) }
	for name, tt := range map[string]struct {
		body   any
		status int
	}{
		"4,000,000 bytes that are no signature":   {sized(pulp.MaxSignatureBody), http.StatusBadRequest},
		"4,000,001 bytes":                         {sized(pulp.MaxSignatureBody + 1), http.StatusRequestEntityTooLarge},
		"4,000,001 bytes, of an unsaid length":    {struct{ io.Reader }{strings.NewReader(sized(pulp.MaxSignatureBody + 1))}, http.StatusRequestEntityTooLarge},
		"a good body and white space without end": {whole(good) + strings.Repeat(" ", pulp.MaxSignatureBody), http.StatusRequestEntityTooLarge},
		"8 megabytes":                             {sized(8 << 20), http.StatusRequestEntityTooLarge},
		"junk in the middle":                      {whole(good[:8] + "!" + good[8:]), http.StatusBadRequest},
		"junk behind":                             {whole(good + "!!!!"), http.StatusBadRequest},
		"more base64 behind the padding":          {whole(good + "AAAA"), http.StatusBadRequest},
		"a line break in the middle":              {whole(good[:8] + "\n" + good[8:]), http.StatusBadRequest},
		"a line break at the end":                 {whole(good + "\n"), http.StatusBadRequest},
		"lines as a mail has them":                {whole(good[:76] + "\r\n" + good[76:]), http.StatusBadRequest},
		"a space in front":                        {whole(" " + good), http.StatusBadRequest},
		"a NUL at the end":                        {whole(good + "\x00"), http.StatusBadRequest},
		"no padding":                              {whole(strings.TrimRight(good, "=")), http.StatusBadRequest},
		"half the padding":                        {whole(strings.TrimSuffix(good, "=")), http.StatusBadRequest},
		"too much padding":                        {whole(good + "=="), http.StatusBadRequest},
		"bits behind the end":                     {whole(good[:len(good)-3] + string(good[len(good)-3]+1) + "=="), http.StatusBadRequest},
		"the alphabet of URLs":                    {whole("-_-_" + good), http.StatusBadRequest},
		"base64 of base64":                        {whole(encode([]byte(good))), http.StatusBadRequest},
		"nothing":                                 {"", http.StatusBadRequest},
		"two bodies":                              {whole(good) + whole(good), http.StatusBadRequest},
		"a member's name in other letters":        {strings.Replace(whole(good), `"content"`, `"Content"`, 1), http.StatusBadRequest},
		"nested ten thousand times":               {strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000), http.StatusBadRequest},
		"a version that is nearly two":            {strings.Replace(whole(good), `"schemaVersion":2`, `"schemaVersion":2.5`, 1), http.StatusBadRequest},
		"a name of another manifest's form":       {strings.Replace(whole(good), string(d)+"@", "sha256:../../etc@", 1), http.StatusBadRequest},
		"a name with a line break behind":         {strings.Replace(whole(good), strings.Repeat("0", 32), strings.Repeat("0", 32)+`\n`, 1), http.StatusBadRequest},
		"a compressed body":                       {inflate(t, []byte(whole(good))), http.StatusBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			if a := w.send(request{as: "admin", method: http.MethodPut, path: manySignatures(d), body: tt.body}); a.status != tt.status {
				t.Errorf("response %d %.300s, want %d", a.status, a.body, tt.status)
			}
		})
	}
	w.expectNoSignatures(d, 1)
	w.expect(
		request{as: "admin", method: http.MethodPut, path: manySignatures(d), body: whole(good)},
		http.StatusCreated,
	)
}
