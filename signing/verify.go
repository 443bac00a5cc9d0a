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

// ClockSkew is the maximum time by which a signature may be in the future (compatibility.md#clock-skew).
const ClockSkew = 5 * time.Minute

// ErrUnknownKey is returned for a signature of another key than the given ones.
var ErrUnknownKey = fault.New(fault.Invalid, "The signature is by another key.")

// strongHashes are the hashes that signatures may use.
var strongHashes = []crypto.Hash{crypto.SHA224, crypto.SHA256, crypto.SHA384, crypto.SHA512, crypto.SHA3_256, crypto.SHA3_512}

// PublicKey is an OpenPGP key for verification: a primary key and its subkeys. Make one with ParsePublicKey.
type PublicKey struct{ entity *openpgp.Entity }

// parsed caches the keys of signing services, which each incoming signature needs. Parsing a key verifies its
// self-signatures.
var parsed = newParsed()

// Limits of parsed: the number of keys, and the size of the armor of one in bytes.
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

// ParsePublicKey parses ASCII armor with exactly one public key. The error is Invalid for other numbers of keys, for
// keys with secret parts (the text is shown to all users), and for keys that exceed the limits or use an unsupported
// algorithm. DSA and all curves are supported.
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
	if strings.Count(armored, "-----BEGIN ") > 1 { // the library ignores all but the first armor
		return PublicKey{}, fault.New(fault.Invalid, "There are several keys; exactly one is required.")
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
		return PublicKey{}, fault.New(fault.Invalid, "There are %d keys; exactly one is required.", scanned.Len())
	}
	block := scanned.blobs[0][0]
	if block.secret {
		return PublicKey{}, fault.New(fault.Invalid, "This is a private key; a public key is required.")
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

// Has reports whether a key id (16 upper-case hex digits) belongs to the primary key or a subkey.
func (k PublicKey) Has(keyID string) bool {
	id, err := parseID(keyID)
	if err != nil {
		return false
	}
	return k.entity.PrimaryKey.KeyId == id ||
		slices.ContainsFunc(k.entity.Subkeys, func(s openpgp.Subkey) bool { return s.PublicKey.KeyId == id })
}

// Verified is a verified signature. Only the Verify functions make one.
type Verified struct {
	claim     Claim
	primary   string
	issuer    string
	keyID     string
	createdAt time.Time
}

// Claim returns the verified claim.
func (v Verified) Claim() Claim { return v.claim }

// Fingerprint returns the fingerprint of the primary key in upper-case hex.
func (v Verified) Fingerprint() string { return v.primary }

// IssuerFingerprint returns the fingerprint of the primary key or subkey that made the signature.
func (v Verified) IssuerFingerprint() string { return v.issuer }

// KeyID returns the id of the key that made the signature: 16 upper-case hex digits.
func (v Verified) KeyID() string { return v.keyID }

// CreatedAt returns the time in the signature.
func (v Verified) CreatedAt() time.Time { return v.createdAt }

// Verify parses a signature and verifies it with a key at a given time.
//
// The error is ErrUnknownKey when another key made the signature. It is Invalid when the signature is malformed or
// bad, when it or its key has expired, when it is older than its key, when the key is revoked, when its hash is weak,
// and when its time is more than ClockSkew in the future.
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
		at = foreign.CreatedAt // the library rejects signatures from the future
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
	if err := verifyResult(message); err != nil {
		return Verified{}, err
	}
	if !bytes.Equal(payload, read.payload) { // the library must have verified the parsed payload
		return Verified{}, bad("it has two different readings")
	}
	return Verified{
		claim: foreign.Claim, primary: key.Fingerprint(), keyID: foreign.KeyID, createdAt: message.Signature.CreationTime.UTC(),
		issuer: strings.ToUpper(hex.EncodeToString(message.SignedBy.PublicKey.Fingerprint)),
	}, nil
}

// VerifyForeign calls Verify for a signature from outside. It waits while many others are verified, and returns the
// cause of the end of ctx if that comes first.
func VerifyForeign(ctx context.Context, raw []byte, key PublicKey, at time.Time) (Verified, error) {
	t, err := begin(ctx)
	if err != nil {
		return Verified{}, err
	}
	defer t.end()
	return Verify(raw, key, at)
}

// verifyResult returns an error unless the library verified the message, which was read to its end.
func verifyResult(m *openpgp.MessageDetails) error {
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
	case m.Signature.CreationTime.Before(m.SignedBy.PublicKey.CreationTime): // gpg rejects it, and so do all clients
		return bad("it is older than its key")
	}
	return nil
}

func bad(why string) error {
	return fault.New(fault.Invalid, "The signature does not verify: %s.", why)
}
