package openpgp_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"io"
	"testing"
	"time"

	pgp "github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	pgpecdsa "github.com/ProtonMail/go-crypto/openpgp/ecdsa"
	"github.com/ProtonMail/go-crypto/openpgp/eddsa"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/signing/openpgp"
	"github.com/countersign/countersign/signing/signtest"
)

// newEntity makes a key.
func newEntity(t testing.TB, c packet.Config) *pgp.Entity {
	t.Helper()
	c.Time = func() time.Time { return time.Now().Add(-time.Hour) }
	e, err := pgp.NewEntity("Test", "", "test@example.com", &c)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// publicOf returns the public key of an entity.
func publicOf(t testing.TB, e *pgp.Entity) signing.PublicKey {
	t.Helper()
	var b bytes.Buffer
	w, err := armor.Encode(&b, pgp.PublicKeyType, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(e.Serialize(w), w.Close()); err != nil {
		t.Fatal(err)
	}
	key, err := signing.ParsePublicKey(b.String())
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// opaque represents a key in a token: it shows its public key and signs, or fails with the error broken.
type opaque struct {
	crypto.Signer
	broken error
}

func (o opaque) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if o.broken != nil {
		return nil, o.broken
	}
	if random == nil {
		random = rand.Reader
	}
	return o.Signer.Sign(random, digest, opts)
}

// asToken returns a crypto.Signer for an entity's key, as a token provides one.
func asToken(t testing.TB, key *packet.PrivateKey) crypto.Signer {
	t.Helper()
	switch k := key.PrivateKey.(type) {
	case *rsa.PrivateKey:
		return k
	case *pgpecdsa.PrivateKey:
		signer, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), k.D.FillBytes(make([]byte, 32)))
		if err != nil {
			t.Fatal(err)
		}
		return signer
	case *eddsa.PrivateKey:
		return ed25519.NewKeyFromSeed(k.D)
	}
	t.Fatalf("unexpected key type %T", key.PrivateKey)
	return nil
}

func TestMessageWithTokenKeys(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]packet.Config{
		"RSA":         {Algorithm: packet.PubKeyAlgoRSA, RSABits: 2048},
		"ECDSA P-256": {Algorithm: packet.PubKeyAlgoECDSA, Curve: packet.CurveNistP256},
		"Ed25519":     {Algorithm: packet.PubKeyAlgoEdDSA, Curve: packet.Curve25519},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEntity(t, c)
			public, now := publicOf(t, e), time.Now().Truncate(time.Second)
			claim := signtest.Request("localhost:5000/a/b:1", "{}").Claim
			payload, err := signing.EncodeClaim(claim)
			if err != nil {
				t.Fatal(err)
			}
			token := *e.PrivateKey
			token.PrivateKey = opaque{Signer: asToken(t, e.PrivateKey)}
			for where, key := range map[string]*packet.PrivateKey{"in the process": e.PrivateKey, "in a token": &token} {
				raw, err := openpgp.Message(key, payload, now)
				if err != nil {
					t.Fatalf("%s: %v", where, err)
				}
				got, err := signing.Verify(raw, public, now)
				if err != nil || got.Claim() != claim || !got.CreatedAt().Equal(now) || got.Fingerprint() != public.Fingerprint() {
					t.Errorf("%s: Verify = %+v, %v", where, got, err)
				}
			}
			removed := errors.New("the token was removed")
			token.PrivateKey = opaque{Signer: token.PrivateKey.(opaque).Signer, broken: removed}
			if raw, err := openpgp.Message(&token, payload, now); !errors.Is(err, removed) {
				t.Errorf("Message with a failing token = %d bytes, %v, want the error of the token", len(raw), err)
			}
		})
	}
}
