// Package signtest is the suite that every signing.Signer passes, and what tests of signatures need: keys and signatures made in the process.
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

// Run holds a Signer against what signing.Signer promises. open returns one with its public key.
func Run(t *testing.T, open func(t *testing.T) (signing.Signer, signing.PublicKey)) {
	t.Helper()
	t.Run("it signs what it is asked to, many at a time", func(t *testing.T) {
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
	t.Run("it stops when nobody waits any more", func(t *testing.T) {
		t.Parallel()
		s, _ := open(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if raw, err := s.Sign(ctx, Request("localhost:5000/suite/app:1", "{}")); err == nil {
			t.Errorf("Sign with a context that has ended returned %d bytes", len(raw))
		}
	})
}

// Request asks for a signature of a manifest with these bytes.
func Request(reference, manifest string) signing.Request {
	return signing.Request{
		Claim:         signing.Claim{ManifestDigest: digest.FromString(manifest), DockerReference: reference},
		Manifest:      func(context.Context) ([]byte, error) { return []byte(manifest), nil },
		CorrelationID: "suite",
	}
}

// Key is an OpenPGP key of a test.
type Key struct {
	Entity *openpgp.Entity
	Public signing.PublicKey
	Armor  string // of the public key
}

// NewKey makes an Ed25519 key as of a time, for a lifetime; 0: it never expires.
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

// Export reads the public part of the entity anew, after the test has changed it.
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

// Config says how a test signs: when, over which hash, for how long.
type Config struct {
	At       time.Time
	Hash     crypto.Hash   // 0 is SHA-256
	Lifetime time.Duration // 0: it never expires
}

// SignBytes returns an OpenPGP message over any bytes.
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
