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

// Options say which key signs.
type Options struct {
	URI       string        // of the key in the token
	PublicKey string        // the OpenPGP key, ASCII armor, of which the token's key is the primary key or a subkey
	Creator   string        // what claims say made them
	Wait      time.Duration // a signature waits so long for a token that is away; 0: not at all
}

// Signer signs with a key in a token. It is safe for concurrent use.
type Signer struct {
	key    *key
	entity *pgp.Entity
	o      Options

	mu   sync.Mutex
	part *packet.PublicKey // that is in the token; nil: not known yet
}

var _ signing.Signer = (*Signer)(nil)

// New returns a signer. It does not touch the token. Invalid when the URI or the public key cannot be used.
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

// Usable says why nothing can be signed now; nil when it can. It does not wait for a token: what it says may be some seconds old. When the OpenPGP
// key may not sign any more, openpgp.ErrNotValid is in its error.
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
			return nil // which part signs is seen when it does
		}
	}
	return s.valid(part, time.Now())
}

func (s *Signer) valid(part *packet.PublicKey, now time.Time) error {
	if _, ok := s.entity.SigningKeyById(now, part.KeyId); ok {
		return nil
	}
	return fault.Wrap(fault.Invalid, fmt.Errorf("%X: %w", part.Fingerprint, openpgp.ErrNotValid), "The key cannot be used: it has expired, was revoked, or may not sign.")
}

// Sign implements signing.Signer: it sets the claim's creator and time. While the token is away it waits. Invalid when the key may not sign
// any more, is not the token's, or the token refuses the PIN; Unavailable when the token stayed away.
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

// signingPart returns the part of the OpenPGP key that is in the token.
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

// matching returns the part of an OpenPGP key with this public key. A token that does not show it is taken to hold the primary key; signatures
// are verified in any case.
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
		return nil, fault.New(fault.Invalid, "The OpenPGP public key is not of the key in the token.")
	}
	return parts[i], nil
}

// Format implements fmt.Formatter: whatever the verb, it tells no more than the fingerprint.
func (s *Signer) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, s.LogValue().String())
}

// LogValue implements slog.LogValuer.
func (s *Signer) LogValue() slog.Value {
	return slog.StringValue(fmt.Sprintf("key %X in a token", s.entity.PrimaryKey.Fingerprint))
}

// inToken is a key in a token for one signature.
type inToken struct {
	ctx  context.Context // of the call that it is made for
	key  *key
	wait time.Duration
	err  error // of the last signature
}

// Public implements crypto.Signer; it is not asked for.
func (*inToken) Public() crypto.PublicKey { return nil }

// Sign implements crypto.Signer.
func (t *inToken) Sign(_ io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	var sig []byte
	sig, t.err = t.key.sign(t.ctx, t.wait, o.HashFunc(), digest)
	return sig, t.err
}
