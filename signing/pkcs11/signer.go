package pkcs11

import (
	"context"
	"crypto"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	pgp "github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/signing/openpgp"
)

// Options configure a Signer.
type Options struct {
	URI       string        // PKCS #11 URI of the private key
	PublicKey string        // OpenPGP public key, ASCII armor; the token's key is its primary key or a subkey
	Creator   string        // creator in claims
	Wait      time.Duration // how long a signature waits for an unavailable token; 0 means that it does not wait
}

// Signer signs with a key in a token. It is safe for concurrent use.
type Signer struct {
	key    *key
	entity *pgp.Entity
	o      Options

	mu   sync.Mutex
	part *packet.PublicKey // the part in the token; nil before the first signature
}

var _ signing.Signer = (*Signer)(nil)

// New returns a signer. It does not use the token. It fails with Invalid when the URI or the public key is not valid.
func New(o Options) (*Signer, error) {
	u, err := ParseURI(o.URI)
	if err != nil {
		return nil, err
	}
	if _, err := signing.ParsePublicKey(o.PublicKey); err != nil {
		return nil, err
	}
	entities, err := pgp.ReadArmoredKeyRing(strings.NewReader(o.PublicKey))
	if err != nil {
		return nil, err
	}
	return &Signer{key: openKey(u), entity: entities[0], o: o}, nil
}

// Usable returns nil when the signer can sign, and otherwise the reason. It does not wait for the token: the result
// may be some seconds old. The error wraps openpgp.ErrNotValid when the OpenPGP key may not sign any more.
func (s *Signer) Usable() error {
	if err := s.key.usable(); err != nil {
		return err
	}
	s.mu.Lock()
	part := s.part
	s.mu.Unlock()
	if part == nil {
		part = s.entity.PrimaryKey
		if len(s.entity.Subkeys) > 0 {
			return nil // the first signature determines the part
		}
	}
	return s.valid(part, time.Now())
}

func (s *Signer) valid(part *packet.PublicKey, now time.Time) error {
	if _, ok := s.entity.SigningKeyById(now, part.KeyId); ok {
		return nil
	}
	return fault.Wrap(fault.Invalid, fmt.Errorf("%X: %w", part.Fingerprint, openpgp.ErrNotValid),
		"The key cannot be used: it has expired, was revoked, or may not sign.")
}

// Sign implements signing.Signer. It sets the claim's creator and timestamp, and waits for an unavailable token.
//
// The error is Invalid when the key may not sign any more, is not the token's, or when the token refuses the PIN. It is
// an outage of fault.SigningKey when the token stays unavailable.
func (s *Signer) Sign(ctx context.Context, r signing.Request) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	part, err := s.signingPart(ctx)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	if err := s.valid(part, now); err != nil {
		return nil, err
	}
	claim := r.Claim
	claim.Creator, claim.Timestamp = s.o.Creator, now
	payload, err := signing.EncodeClaim(claim)
	if err != nil {
		return nil, err
	}
	return openpgp.Message(&packet.PrivateKey{PublicKey: *part, PrivateKey: &inToken{ctx: ctx, key: s.key, wait: s.o.Wait}}, payload, now)
}

// signingPart returns the part of the OpenPGP key that is in the token: the primary key or a subkey.
func (s *Signer) signingPart(ctx context.Context) (*packet.PublicKey, error) {
	s.mu.Lock()
	part := s.part
	s.mu.Unlock()
	if part != nil {
		return part, nil
	}
	public, err := s.key.public(ctx, s.o.Wait)
	if err != nil {
		return nil, err
	}
	if part, err = matching(s.entity, public); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.part = part
	return part, nil
}

// matching returns the part of an OpenPGP key that has the given public key. When the token does not show its public key
// (nil), matching assumes the primary key; callers verify each signature in any case.
func matching(e *pgp.Entity, public crypto.PublicKey) (*packet.PublicKey, error) {
	if public == nil {
		return e.PrimaryKey, nil
	}
	parts := []*packet.PublicKey{e.PrimaryKey}
	for _, sub := range e.Subkeys {
		parts = append(parts, sub.PublicKey)
	}
	i := slices.IndexFunc(parts, func(p *packet.PublicKey) bool {
		own, err := publicPart(public, p.CreationTime)
		return err == nil && slices.Equal(own.Fingerprint, p.Fingerprint)
	})
	if i < 0 {
		return nil, fault.New(fault.Invalid, "The OpenPGP public key does not belong to the key in the token.")
	}
	return parts[i], nil
}

// Format implements fmt.Formatter. It writes only the fingerprint, with each verb.
func (s *Signer) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, s.LogValue().String())
}

// LogValue implements slog.LogValuer. It shows only the fingerprint.
func (s *Signer) LogValue() slog.Value {
	return slog.StringValue(fmt.Sprintf("key %X in a token", s.entity.PrimaryKey.Fingerprint))
}

// inToken adapts a key in a token to crypto.Signer, for one signature.
type inToken struct {
	ctx  context.Context // crypto.Signer passes none
	key  *key
	wait time.Duration
	err  error // of the last signature
}

// Public implements crypto.Signer. The OpenPGP library does not call it.
func (*inToken) Public() crypto.PublicKey { return nil }

// Sign implements crypto.Signer.
func (t *inToken) Sign(_ io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	var sig []byte
	sig, t.err = t.key.sign(t.ctx, t.wait, o.HashFunc(), digest)
	return sig, t.err
}
