package signing_test

import (
	"bytes"
	"compress/flate"
	"compress/zlib"
	"context"
	"crypto"
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/signing/signtest"
)

var claim = signing.Claim{ManifestDigest: "sha256:" + hex64, DockerReference: "localhost:24817/acme/app:v1"}

// packetOf returns an OpenPGP packet with a new-format header.
func packetOf(tag byte, body []byte) []byte {
	b := []byte{0xc0 | tag, 255}
	return append(binary.BigEndian.AppendUint32(b, uint32(len(body))), body...)
}

// compressed returns a message in a ZLIB-compressed packet, as gpg makes it.
func compressed(t testing.TB, message []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	b.WriteByte(2)
	w := zlib.NewWriter(&b)
	if _, err := w.Write(message); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return packetOf(8, b.Bytes())
}

// withoutLength returns a message in a ZIP-compressed packet of indeterminate length, as skopeo makes it with gpgme.
func withoutLength(t testing.TB, message []byte) []byte {
	t.Helper()
	b := bytes.NewBuffer([]byte{0xa3, 1})
	w, err := flate.NewWriter(b, flate.DefaultCompression)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(message); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// packets splits a message into its packets.
func packets(t *testing.T, message []byte) [][]byte {
	t.Helper()
	var cut [][]byte
	r := bytes.NewReader(message)
	for r.Len() > 0 {
		before := len(message) - r.Len()
		p, err := packet.Read(r)
		if err != nil {
			t.Fatal(err)
		}
		if l, ok := p.(*packet.LiteralData); ok {
			_, _ = new(bytes.Buffer).ReadFrom(l.Body)
		}
		cut = append(cut, message[before:len(message)-r.Len()])
	}
	return cut
}

// TestParseRequiresExactlyOneSignedMessage parses messages with missing, repeated and additional packets
// (hostile-inputs.md#malformed-message, hostile-inputs.md#compressed-packet).
func TestParseRequiresExactlyOneSignedMessage(t *testing.T) {
	t.Parallel()
	now := time.Now()
	key := signtest.NewKey(t, now.Add(-time.Hour), 0)
	good := key.Sign(t, claim, now)
	parts := packets(t, good)
	if len(parts) != 3 {
		t.Fatalf("a signature has %d packets, want 3", len(parts))
	}
	onePass, literal, sig := parts[0], parts[1], parts[2]
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	otherKey := bytes.Clone(onePass)
	otherKey[len(otherKey)-2] ^= 1 // the last byte of the key id
	tests := map[string]struct {
		give []byte
		good bool
	}{
		"as go-crypto makes it":                          {give: good, good: true},
		"compressed as a whole":                          {give: compressed(t, good), good: true},
		"compressed without a length":                    {give: withoutLength(t, good), good: true},
		"nothing":                                        {give: nil},
		"a text":                                         {give: []byte("-----BEGIN PGP MESSAGE-----\n")},
		"literal data alone":                             {give: literal},
		"no signature":                                   {give: join(onePass, literal)},
		"no one-pass signature":                          {give: join(literal, sig)},
		"a detached signature":                           {give: sig},
		"two literal data":                               {give: join(onePass, literal, literal, sig)},
		"two signatures":                                 {give: join(onePass, literal, sig, sig)},
		"two one-pass signatures":                        {give: join(onePass, onePass, literal, sig, sig)},
		"a byte after it":                                {give: join(good, []byte{0})},
		"a message after it":                             {give: join(good, good)},
		"literal data before it":                         {give: join(literal, good)},
		"a byte after the compressed packet":             {give: join(compressed(t, good), []byte{0})},
		"a byte after one without a length":              {give: join(withoutLength(t, good), []byte{0})},
		"a message after one without a length":           {give: join(withoutLength(t, good), good)},
		"a byte in the packet after the compressed data": {give: packetOf(8, join(withoutLength(t, good)[1:], []byte{0}))},
		"an unknown compression":                         {give: packetOf(8, join([]byte{9}, good))},
		"an empty compressed packet":                     {give: packetOf(8, nil)},
		"another key in the one-pass signature":          {give: join(otherKey, literal, sig)},
		"compressed twice":                               {give: compressed(t, compressed(t, good))},
		"a part of it":                                   {give: good[:len(good)/2]},
		"a decompression bomb":                           {give: compressed(t, packetOf(11, make([]byte, 4<<20)))},
		"another payload":                                {give: key.SignBytes(t, []byte("hello"), signtest.Config{At: now})},
		"a payload without end":                          {give: key.SignBytes(t, make([]byte, 1<<20), signtest.Config{At: now})},
		"a public key":                                   {give: []byte(key.Armor)},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := signing.Parse(tt.give)
			if !tt.good {
				if !fault.Is(err, fault.Invalid) {
					t.Errorf("Parse = %+v, %v, want Invalid", got, err)
				}
				return
			}
			if err != nil || got.Claim != claim || got.CreatedAt.Unix() != now.Unix() || got.Fingerprint != key.Public.Fingerprint() || !key.Public.Has(got.KeyID) {
				t.Errorf("Parse = %+v, %v", got, err)
			}
			if _, err := signing.Verify(tt.give, key.Public, now); err != nil {
				t.Errorf("Verify = %v", err)
			}
		})
	}
	if _, err := signing.Parse(make([]byte, signing.MaxSize+1)); !fault.Is(err, fault.TooLarge) {
		t.Errorf("Parse of a signature over MaxSize = %v, want TooLarge", err)
	}
}

// TestVerifySkopeo verifies a signature of the manifest {} by skopeo 1.9 with GnuPG 2.2, and changed copies of it.
func TestVerifySkopeo(t *testing.T) {
	t.Parallel()
	raw, key := skopeo(t)
	foreign, err := signing.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	verified, err := signing.Verify(raw, key, foreign.CreatedAt)
	if err != nil {
		t.Fatal(err)
	}
	c := verified.Claim()
	if c != foreign.Claim || c.ManifestDigest != digest.FromString("{}") || c.DockerReference != "localhost:24817/acme/app:v1" || !strings.HasPrefix(c.Creator, "atomic ") || c.Timestamp.IsZero() {
		t.Errorf("claim %+v, untrusted %+v", c, foreign.Claim)
	}
	if fpr := key.Fingerprint(); len(fpr) != 40 || verified.Fingerprint() != fpr || verified.IssuerFingerprint() != fpr || foreign.Fingerprint != fpr || verified.KeyID() != fpr[24:] {
		t.Errorf("fingerprint %s, issuer %s, key id %s; want those of the key %s", verified.Fingerprint(), verified.IssuerFingerprint(), verified.KeyID(), fpr)
	}
	for i := range raw { // a changed copy is rejected or has the same content
		changed := bytes.Clone(raw)
		changed[i] ^= 0x10
		if v, err := signing.Verify(changed, key, foreign.CreatedAt); err == nil && v != verified {
			t.Errorf("with byte %d changed, Verify = %+v", i, v)
		}
	}
}

// skopeo returns a recorded signature and its key.
func skopeo(t testing.TB) ([]byte, signing.PublicKey) {
	t.Helper()
	raw, err := os.ReadFile("testdata/skopeo.sig")
	if err != nil {
		t.Fatal(err)
	}
	armored, err := os.ReadFile("testdata/skopeo.asc")
	if err != nil {
		t.Fatal(err)
	}
	key, err := signing.ParsePublicKey(string(armored))
	if err != nil {
		t.Fatal(err)
	}
	return raw, key
}

// TestVerify verifies signatures by valid, expired and revoked keys, at different times
// (hostile-inputs.md#bad-signature, hostile-inputs.md#unknown-key, hostile-inputs.md#expired-signature).
func TestVerify(t *testing.T) {
	t.Parallel()
	now := time.Now()
	key, other := signtest.NewKey(t, now.Add(-24*time.Hour), 0), signtest.NewKey(t, now.Add(-24*time.Hour), 0)
	short := signtest.NewKey(t, now.Add(-24*time.Hour), time.Hour)
	payload, err := signing.EncodeClaim(claim)
	if err != nil {
		t.Fatal(err)
	}
	revoked := signtest.NewKey(t, now.Add(-24*time.Hour), 0)
	of := revoked.Sign(t, claim, now)
	if err := revoked.Entity.RevokeKey(packet.KeyCompromised, "lost", nil); err != nil {
		t.Fatal(err)
	}
	revoked.Export(t)
	sub := signtest.NewKey(t, now.Add(-24*time.Hour), 0)
	bySubkey(t, sub, now.Add(-time.Hour), 0)
	lost := signtest.NewKey(t, now.Add(-24*time.Hour), 0)
	bySubkey(t, lost, now.Add(-2*time.Hour), 0)
	ofLost := lost.Sign(t, claim, now.Add(-time.Hour))
	if err := lost.Entity.RevokeSubkey(&lost.Entity.Subkeys[len(lost.Entity.Subkeys)-1], packet.KeyCompromised, "lost", nil); err != nil {
		t.Fatal(err)
	}
	lost.Export(t)
	spent := signtest.NewKey(t, now.Add(-24*time.Hour), 0)
	bySubkey(t, spent, now.Add(-2*time.Hour), 90*time.Minute)
	tampered := bytes.Replace(key.Sign(t, claim, now), []byte("acme/app:v1"), []byte("acme/app:v2"), 1)

	tests := map[string]struct {
		raw  []byte
		key  *signtest.Key
		want error // nil when the signature is valid
	}{
		"a good one":                       {raw: key.Sign(t, claim, now), key: key},
		"one from four minutes ahead":      {raw: key.Sign(t, claim, now.Add(4*time.Minute)), key: key},
		"one by a signing subkey":          {raw: sub.Sign(t, claim, now), key: sub},
		"one over SHA-512":                 {raw: key.SignBytes(t, payload, signtest.Config{At: now, Hash: crypto.SHA512}), key: key},
		"one that expires later":           {raw: key.SignBytes(t, payload, signtest.Config{At: now, Lifetime: time.Hour}), key: key},
		"one by another key":               {raw: other.Sign(t, claim, now), key: key, want: signing.ErrUnknownKey},
		"one that was changed":             {raw: tampered, key: key, want: errAny},
		"one from six minutes ahead":       {raw: key.Sign(t, claim, now.Add(6*time.Minute)), key: key, want: errAny},
		"one that has expired":             {raw: key.SignBytes(t, payload, signtest.Config{At: now.Add(-2 * time.Hour), Lifetime: time.Hour}), key: key, want: errAny},
		"one by a key that has expired":    {raw: short.Sign(t, claim, now.Add(-23*time.Hour-30*time.Minute)), key: short, want: errAny},
		"one by a key that was revoked":    {raw: of, key: revoked, want: errAny},
		"one by a subkey that was revoked": {raw: ofLost, key: lost, want: errAny},
		"one by a subkey that has expired": {raw: spent.Sign(t, claim, now.Add(-time.Hour)), key: spent, want: errAny},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := signing.Verify(tt.raw, tt.key.Public, now)
			switch {
			case tt.want == nil:
				if err != nil || got.Claim() != claim || got.Fingerprint() != tt.key.Public.Fingerprint() || !tt.key.Public.Has(got.KeyID()) {
					t.Errorf("Verify = %+v, %v", got, err)
				}
			case !fault.Is(err, fault.Invalid), errors.Is(tt.want, signing.ErrUnknownKey) && !errors.Is(err, signing.ErrUnknownKey):
				t.Errorf("Verify = %+v, %v, want %v", got, err, tt.want)
			}
		})
	}
	if got, err := signing.Verify(tests["one by a signing subkey"].raw, sub.Public, now); err != nil || got.IssuerFingerprint() == got.Fingerprint() {
		t.Errorf("the subkey's signature has the issuer %s and the primary key %s, %v", got.IssuerFingerprint(), got.Fingerprint(), err)
	}
}

// bySubkey adds a signing subkey to a key. With lifetime 0 the subkey does not expire.
func bySubkey(t *testing.T, key *signtest.Key, at time.Time, lifetime time.Duration) {
	t.Helper()
	config := &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, KeyLifetimeSecs: uint32(lifetime.Seconds()), Time: func() time.Time { return at }}
	if err := key.Entity.AddSigningSubkey(config); err != nil {
		t.Fatal(err)
	}
	key.Export(t)
}

var errAny = errors.New("any Invalid")

func TestParsePublicKey(t *testing.T) {
	t.Parallel()
	key := signtest.NewKey(t, time.Now().Add(-time.Hour), 0)
	var secret bytes.Buffer
	w, err := armor.Encode(&secret, openpgp.PrivateKeyType, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(key.Entity.SerializePrivate(w, nil), w.Close()); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"nothing": "", "a text": "hello", "a cut armor": "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nxx",
		"two keys": key.Armor + "\n" + key.Armor, "a private key": secret.String(),
		"a private key that says it is public": strings.ReplaceAll(secret.String(), "PRIVATE", "PUBLIC"),
	} {
		if _, err := signing.ParsePublicKey(text); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want Invalid", name, err)
		}
	}
}

// signerFunc is a Signer whose result the test determines.
type signerFunc func(r signing.Request) ([]byte, error)

func (f signerFunc) Sign(_ context.Context, r signing.Request) ([]byte, error) { return f(r) }

// TestCheckedRejectsOtherSignatures has a signer return other signatures than the requested one
// (hostile-inputs.md#script-signs-something-else).
func TestCheckedRejectsOtherSignatures(t *testing.T) {
	t.Parallel()
	now := time.Now()
	key, other := signtest.NewKey(t, now.Add(-time.Hour), 0), signtest.NewKey(t, now.Add(-time.Hour), 0)
	asked := signtest.Request("localhost:24817/acme/app:v1", "{}")
	otherReference, otherManifest := asked.Claim, asked.Claim
	otherReference.DockerReference = "localhost:24817/acme/app:v2"
	otherManifest.ManifestDigest = digest.FromString("another")
	tests := map[string]struct {
		give []byte
		good bool
	}{
		"the requested signature": {give: key.Sign(t, asked.Claim, now), good: true},
		"another reference":       {give: key.Sign(t, otherReference, now)},
		"another manifest":        {give: key.Sign(t, otherManifest, now)},
		"another key":             {give: other.Sign(t, asked.Claim, now)},
		"nothing":                 {give: nil},
		"rubbish":                 {give: []byte("rubbish")},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			checked := signing.NewChecked(signerFunc(func(signing.Request) ([]byte, error) { return tt.give, nil }), key.Public)
			made, err := checked.Sign(t.Context(), asked)
			if tt.good != (err == nil) || err != nil && !fault.Is(err, fault.Invalid) || err == nil && !bytes.Equal(made.Raw, tt.give) {
				t.Errorf("Sign = %v, want good: %v", err, tt.good)
			}
		})
	}
	down := errors.New("no key")
	checked := signing.NewChecked(signerFunc(func(signing.Request) ([]byte, error) { return nil, down }), key.Public)
	if _, err := checked.Sign(t.Context(), asked); !errors.Is(err, down) {
		t.Errorf("Sign = %v, want the signer's error", err)
	}
	checked = signing.NewChecked(signerFunc(func(signing.Request) ([]byte, error) { return other.Sign(t, asked.Claim, now), nil }), key.Public)
	_, err := checked.Sign(t.Context(), asked)
	want := "What the signing service returned does not verify with the service's key: The signature is by another key."
	if e, ok := errors.AsType[*fault.Error](err); !ok || e.Msg != want {
		t.Errorf("Sign = %v, want %q", err, want)
	}
}

// TestSignerSuite runs the suite of all signers with a signer of signtest itself, so that a failure of the suite is not
// mistaken for one of a signer.
func TestSignerSuite(t *testing.T) {
	t.Parallel()
	signtest.Run(t, func(t *testing.T) (signing.Signer, signing.PublicKey) {
		key := signtest.NewKey(t, time.Now().Add(-time.Hour), 0)
		return inProcess{t, key}, key.Public
	})
}

type inProcess struct {
	t   *testing.T
	key *signtest.Key
}

func (s inProcess) Sign(ctx context.Context, r signing.Request) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return s.key.Sign(s.t, r.Claim, time.Now()), nil
}
