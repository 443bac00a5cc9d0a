// Package signtest has the tests that each implementation of signing.Signer must pass, and makes keys and signatures
// for tests.
package signtest

import (
	"bytes"
	"context"
	"crypto"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/signing"
)

// Run tests a Signer. open returns one and its public key.
func Run(t *testing.T, open func(t *testing.T) (signing.Signer, signing.PublicKey)) {
	t.Helper()
	t.Run("makes the requested signatures concurrently", func(t *testing.T) {
		t.Parallel()
		checked := signing.NewChecked(open(t))
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				r := Request(fmt.Sprintf("localhost:5000/suite/app:%d", i), fmt.Sprintf(`{"n": %d}`, i))
				made, err := checked.Sign(t.Context(), r)
				if err != nil {
					t.Errorf("Sign(%d) = %v", i, err)
					return
				}
				if c := made.Verified.Claim(); c.ManifestDigest != r.Claim.ManifestDigest || c.DockerReference != r.Claim.DockerReference {
					t.Errorf("Sign(%d) claims %+v, want %+v", i, c, r.Claim)
				}
				if age := time.Since(made.Verified.CreatedAt()); age > time.Hour || age < -signing.ClockSkew {
					t.Errorf("Sign(%d) is %v old", i, age)
				}
			})
		}
		wg.Wait()
	})
	t.Run("fails when the context has ended", func(t *testing.T) {
		t.Parallel()
		s, _ := open(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if raw, err := s.Sign(ctx, Request("localhost:5000/suite/app:1", "{}")); err == nil {
			t.Errorf("Sign with a context that has ended returned %d bytes", len(raw))
		}
	})
}

// Request returns a request for a signature of a manifest.
func Request(reference, manifest string) signing.Request {
	return signing.Request{
		Claim:         signing.Claim{ManifestDigest: digest.FromString(manifest), DockerReference: reference},
		Manifest:      func(context.Context) ([]byte, error) { return []byte(manifest), nil },
		CorrelationID: "suite",
	}
}

// Key is an OpenPGP key for tests.
type Key struct {
	Entity *openpgp.Entity
	Public signing.PublicKey
	Armor  string // public key
}

// NewKey makes an Ed25519 key that is valid from at on. With lifetime 0 it does not expire.
func NewKey(t testing.TB, at time.Time, lifetime time.Duration) *Key {
	t.Helper()
	c := &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Time: func() time.Time { return at }, KeyLifetimeSecs: uint32(lifetime.Seconds())}
	e, err := openpgp.NewEntity("Test", "", "test@example.com", c)
	if err != nil {
		t.Fatal(err)
	}
	k := &Key{Entity: e}
	k.Export(t)
	return k
}

// Export updates Public and Armor after the test has changed the entity.
func (k *Key) Export(t testing.TB) {
	t.Helper()
	var b bytes.Buffer
	w, err := armor.Encode(&b, openpgp.PublicKeyType, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Entity.Serialize(w); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	k.Armor = b.String()
	if k.Public, err = signing.ParsePublicKey(k.Armor); err != nil {
		t.Fatal(err)
	}
}

// Config has the properties of a signature.
type Config struct {
	At       time.Time
	Hash     crypto.Hash   // 0 means SHA-256
	Lifetime time.Duration // 0 means that it does not expire
}

// SignBytes returns a signed OpenPGP message with any payload.
func (k *Key) SignBytes(t testing.TB, payload []byte, c Config) []byte {
	t.Helper()
	if c.Hash == 0 {
		c.Hash = crypto.SHA256
	}
	config := &packet.Config{DefaultHash: c.Hash, Time: func() time.Time { return c.At }, SigLifetimeSecs: uint32(c.Lifetime.Seconds())}
	var b bytes.Buffer
	w, err := openpgp.Sign(&b, k.Entity, &openpgp.FileHints{IsBinary: true}, config)
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

// Sign returns a signature of a claim.
func (k *Key) Sign(t testing.TB, c signing.Claim, at time.Time) []byte {
	t.Helper()
	payload, err := signing.EncodeClaim(c)
	if err != nil {
		t.Fatal(err)
	}
	return k.SignBytes(t, payload, Config{At: at})
}
