package signing

import (
	"bytes"
	"context"
	"crypto"
	"encoding/hex"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/countersign/countersign/internal/fault"
)

// ClockSkew is how far ahead a signature's time may be (D25).
const ClockSkew = 5 * time.Minute

// ErrUnknownKey says that a signature is by another key than the one it was to be verified with.
var ErrUnknownKey = fault.New(fault.Invalid, "The signature is by another key.")

// strongHashes are what a signature may be made over.
var strongHashes = []crypto.Hash{crypto.SHA224, crypto.SHA256, crypto.SHA384, crypto.SHA512, crypto.SHA3_256, crypto.SHA3_512}

// PublicKey is an OpenPGP key that signatures are verified with: a primary key and its subkeys. Make one with ParsePublicKey.
type PublicKey struct{ entity *openpgp.Entity }

// parsed keeps the keys of signing services, which are needed for each signature that comes in: reading one verifies its self-signatures.
var parsed = newParsed()

// Bounds of parsed: keys, and bytes of text of one.
const (
	maxParsed     = 128
	maxParsedSize = 64 << 10
)

func newParsed() *lru.Cache[string, PublicKey] {
	cache, err := lru.New[string, PublicKey](maxParsed)
	if err != nil {
		panic(err) // the size is positive
	}
	return cache
}

// ParsePublicKey reads the one key in an ASCII armor. Invalid when there is none, or more, when any of it is secret (the text of a public
// key is shown to everyone), and when the key is over the bounds or of an algorithm that is not supported. DSA and all curves are.
func ParsePublicKey(armored string) (PublicKey, error) {
	if key, there := parsed.Get(armored); there {
		return key, nil
	}
	key, err := parsePublicKey(armored)
	if err == nil && len(armored) <= maxParsedSize {
		parsed.Add(armored, key)
	}
	return key, err
}

func parsePublicKey(armored string) (PublicKey, error) {
	if strings.Count(armored, "-----BEGIN ") > 1 { // the library reads the first armor and is silent about others
		return PublicKey{}, fault.New(fault.Invalid, "There are several keys where one is wanted.")
	}
	raw, err := unarmor(armored)
	if err != nil {
		return PublicKey{}, fault.Wrap(fault.Invalid, err, "Not an OpenPGP public key.")
	}
	scanned, err := scanKeyring(true, raw)
	if err != nil {
		return PublicKey{}, fault.Wrap(fault.Invalid, err, "Not an OpenPGP public key.")
	}
	if scanned.Len() != 1 {
		return PublicKey{}, fault.New(fault.Invalid, "There are %d keys where one is wanted.", scanned.Len())
	}
	block := scanned.blobs[0][0]
	if block.secret {
		return PublicKey{}, fault.New(fault.Invalid, "A private key where a public one is wanted.")
	}
	if block.reason != "" {
		return PublicKey{}, fault.New(fault.Invalid, "The public key is not supported: it %s.", block.reason)
	}
	ring, err := openpgp.ReadKeyRing(bytes.NewReader(block.packets))
	if err != nil || len(ring) != 1 {
		return PublicKey{}, fault.Wrap(fault.Invalid, err, "Not an OpenPGP public key.")
	}
	return PublicKey{ring[0]}, nil
}

// Fingerprint returns the primary key's fingerprint: 40 upper-case hex digits for a version 4 key.
func (k PublicKey) Fingerprint() string {
	return strings.ToUpper(hex.EncodeToString(k.entity.PrimaryKey.Fingerprint))
}

// Has says whether an id (16 upper-case hex digits) is the primary key's or a subkey's.
func (k PublicKey) Has(keyID string) bool {
	id, err := parseID(keyID)
	if err != nil {
		return false
	}
	return k.entity.PrimaryKey.KeyId == id || slices.ContainsFunc(k.entity.Subkeys, func(s openpgp.Subkey) bool { return s.PublicKey.KeyId == id })
}

// Verified is a signature that was verified. Only Verify makes one.
type Verified struct {
	claim     Claim
	primary   string
	issuer    string
	keyID     string
	createdAt time.Time
}

// Claim returns what the signature says, which its key vouches for.
func (v Verified) Claim() Claim { return v.claim }

// Fingerprint returns the fingerprint of the primary key: upper-case hex.
func (v Verified) Fingerprint() string { return v.primary }

// IssuerFingerprint returns the fingerprint of the key that made the signature, the primary one or a subkey.
func (v Verified) IssuerFingerprint() string { return v.issuer }

// KeyID returns the id of the key that made the signature: 16 upper-case hex digits.
func (v Verified) KeyID() string { return v.keyID }

// CreatedAt returns the time that the signature states.
func (v Verified) CreatedAt() time.Time { return v.createdAt }

// Verify reads a signature and verifies it with a key as of a time. ErrUnknownKey when another key made it; Invalid when it is malformed
// or bad, when it or the key has expired, when it is older than its key, when the key was revoked, when its hash is weak, or when its time is more than ClockSkew ahead.
func Verify(raw []byte, key PublicKey, at time.Time) (Verified, error) {
	foreign, read, err := read(raw)
	if err != nil {
		return Verified{}, err
	}
	if !key.Has(foreign.KeyID) {
		return Verified{}, ErrUnknownKey
	}
	if foreign.CreatedAt.After(at) {
		if foreign.CreatedAt.After(at.Add(ClockSkew)) {
			return Verified{}, bad("its time is in the future")
		}
		at = foreign.CreatedAt // for OpenPGP a signature from the future is none
	}
	config := &packet.Config{Time: func() time.Time { return at }}
	message, err := openpgp.ReadMessage(bytes.NewReader(read.packets), openpgp.EntityList{key.entity}, nil, config)
	if err != nil {
		return Verified{}, bad("it cannot be read")
	}
	payload, err := io.ReadAll(io.LimitReader(message.UnverifiedBody, maxClaim+1))
	if err != nil {
		return Verified{}, bad("it cannot be read")
	}
	if err := judge(message); err != nil {
		return Verified{}, err
	}
	if !bytes.Equal(payload, read.payload) { // what is verified must be what was read
		return Verified{}, bad("it can be read in two ways")
	}
	return Verified{
		claim: foreign.Claim, primary: key.Fingerprint(), keyID: foreign.KeyID, createdAt: message.Signature.CreationTime.UTC(),
		issuer: strings.ToUpper(hex.EncodeToString(message.SignedBy.PublicKey.Fingerprint)),
	}, nil
}

// VerifyForeign is Verify for a signature that came from outside: it waits until few others are verified at the same time. It returns the cause of
// ctx's end when that comes first.
func VerifyForeign(ctx context.Context, raw []byte, key PublicKey, at time.Time) (Verified, error) {
	t, err := begin(ctx)
	if err != nil {
		return Verified{}, err
	}
	defer t.end()
	return Verify(raw, key, at)
}

// judge says what OpenPGP has found of a message that was read to its end.
func judge(m *openpgp.MessageDetails) error {
	switch {
	case !m.IsSigned || m.SignedBy == nil:
		return bad("its key may not sign")
	case errors.Is(m.SignatureError, pgperrors.ErrKeyExpired):
		return bad("its key has expired")
	case errors.Is(m.SignatureError, pgperrors.ErrKeyRevoked):
		return bad("its key was revoked")
	case errors.Is(m.SignatureError, pgperrors.ErrSignatureExpired):
		return bad("it has expired")
	case m.SignatureError != nil || m.Signature == nil || len(m.UnverifiedSignatures) > 0:
		return bad("it is not the key's")
	case !slices.Contains(strongHashes, m.Signature.Hash):
		return bad("its hash is weak")
	case m.Signature.CreationTime.Before(m.SignedBy.PublicKey.CreationTime): // gpg refuses it, and with it every client
		return bad("it is older than its key")
	}
	return nil
}

func bad(why string) error {
	return fault.New(fault.Invalid, "The signature does not verify: %s.", why)
}
