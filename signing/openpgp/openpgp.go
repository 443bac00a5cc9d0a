// Package openpgp signs with an OpenPGP key from a file. It also writes the signature messages for keys that are
// elsewhere, for example in a token.
package openpgp

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	pgp "github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/countersign/countersign/signing"
)

// Signer signs with a key in memory. It is safe for concurrent use. Its formatting methods hide the key.
type Signer struct {
	key     *packet.PrivateKey // the decrypted part that signs
	entity  *pgp.Entity        // without secret parts; has the validity of the key
	armored string             // public key
	public  signing.PublicKey
	creator string
}

var _ signing.Signer = (*Signer)(nil)

// Sign implements signing.Signer. It sets the claim's creator and timestamp. The error is Invalid when the key has
// expired since it was loaded.
func (s *Signer) Sign(ctx context.Context, r signing.Request) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	now := time.Now()
	if _, ok := s.entity.SigningKeyById(now, s.key.KeyId); !ok {
		return nil, cannot(whyNot(s.entity, now), s.Fingerprint())
	}
	claim := r.Claim
	claim.Creator, claim.Timestamp = s.creator, now
	payload, err := signing.EncodeClaim(claim)
	if err != nil {
		return nil, err
	}
	return Message(s.key, payload, now)
}

// PublicKey returns the public key as ASCII armor.
func (s *Signer) PublicKey() string { return s.armored }

// Public returns the public key, which verifies the signer's signatures.
func (s *Signer) Public() signing.PublicKey { return s.public }

// Fingerprint returns the fingerprint of the primary key: 40 upper-case hex digits.
func (s *Signer) Fingerprint() string { return s.public.Fingerprint() }

// SigningFingerprint returns the fingerprint of the part of the key that signs, the primary key or a subkey: 40
// upper-case hex digits.
func (s *Signer) SigningFingerprint() string { return fmt.Sprintf("%X", s.key.Fingerprint) }

// Format implements fmt.Formatter. It writes only the fingerprint, with each verb.
func (s *Signer) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "OpenPGP key "+s.Fingerprint())
}

// LogValue implements slog.LogValuer. It shows only the fingerprint.
func (s *Signer) LogValue() slog.Value { return slog.StringValue("OpenPGP key " + s.Fingerprint()) }
