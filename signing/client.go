package signing

import (
	"bytes"
	"crypto"
	"crypto/dsa" //nolint:staticcheck // gpg still knows such keys, and so must what judges as gpg does
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/countersign/countersign/internal/fault"
)

// Keyring holds the keys that a client trusts. It judges signatures as podman and skopeo do, which leave that to gpg; what this server
// itself relies on is Verify. They differ (docs/verify.md): gpg takes SHA-1 and times in the future, and a key that has expired is
// no good to it for signatures from before either.
type Keyring struct{ entities []*openpgp.Entity }

// ParseKeyring reads keys from blobs as gpg imports them: each binary or in ASCII armor, perhaps several keys or armors, keys that cannot be
// read left out, and the same key in several places merged. Invalid when a blob has no keys at all.
func ParseKeyring(blobs ...[]byte) (Keyring, error) {
	var ring Keyring
	for _, blob := range blobs {
		keys, err := readKeys(blob)
		if err != nil || len(keys) == 0 {
			return Keyring{}, fault.Wrap(fault.Invalid, err, "There are no OpenPGP public keys.")
		}
		for _, key := range keys {
			ring.add(key)
		}
	}
	return ring, nil
}

const armorBegin = "-----BEGIN PGP "

// Bounds of keys that are not the operator's: reading a key verifies its self-signatures, and with 65,535 bits one takes minutes.
const (
	maxKeyBits   = 8192 // of RSA moduli, and of DSA primes
	maxGroupBits = 512  // of DSA subgroups; a signature's cost goes with them
)

// readRing reads a binary ring, unless one of its keys is over the bounds.
func readRing(raw []byte) (openpgp.EntityList, error) {
	packets := packet.NewReader(bytes.NewReader(raw))
	for {
		p, err := packets.Next()
		if errors.Is(err, io.EOF) {
			return openpgp.ReadKeyRing(bytes.NewReader(raw))
		}
		if err != nil && !isUnsupported(err) {
			return nil, err
		}
		var key *packet.PublicKey
		switch p := p.(type) {
		case *packet.PublicKey:
			key = p
		case *packet.PrivateKey:
			key = &p.PublicKey
		default:
			continue
		}
		bits, err := key.BitLength()
		group, isDSA := key.PublicKey.(*dsa.PublicKey)
		if err == nil && bits > maxKeyBits || isDSA && group.Q.BitLen() > maxGroupBits {
			return nil, fault.New(fault.Invalid, "A key is too large.")
		}
	}
}

func isUnsupported(err error) bool {
	_, unsupported := errors.AsType[pgperrors.UnsupportedError](err)
	_, structural := errors.AsType[pgperrors.StructuralError](err)
	return unsupported || structural
}

func readKeys(blob []byte) ([]*openpgp.Entity, error) {
	if len(blob) > 0 && blob[0]&0x80 != 0 {
		return readRing(blob)
	}
	var keys []*openpgp.Entity
	var last error
	blocks := strings.Split(string(blob), armorBegin)
	for _, text := range blocks[1:] {
		block, err := armor.Decode(strings.NewReader(armorBegin + text))
		if err != nil || block.Type != openpgp.PublicKeyType && block.Type != openpgp.PrivateKeyType {
			last = err
			continue
		}
		var more openpgp.EntityList
		raw, err := io.ReadAll(block.Body)
		if err == nil {
			more, err = readRing(raw)
		}
		if err != nil {
			last = err
			continue
		}
		keys = append(keys, more...)
	}
	if len(keys) > 0 {
		last = nil
	}
	return keys, last
}

// add takes a key up, merging it with another copy of it: what the newer self-signatures say holds, and a revocation in either.
func (r *Keyring) add(key *openpgp.Entity) {
	for _, have := range r.entities {
		if !bytes.Equal(have.PrimaryKey.Fingerprint, key.PrimaryKey.Fingerprint) {
			continue
		}
		have.Revocations = append(have.Revocations, key.Revocations...)
		for name, identity := range key.Identities {
			old := have.Identities[name]
			if old == nil {
				have.Identities[name] = identity
				continue
			}
			old.Revocations = append(old.Revocations, identity.Revocations...)
			old.SelfSignature = newer(old.SelfSignature, identity.SelfSignature)
		}
		for _, subkey := range key.Subkeys {
			mergeSubkey(have, subkey)
		}
		return
	}
	r.entities = append(r.entities, key)
}

func mergeSubkey(into *openpgp.Entity, subkey openpgp.Subkey) {
	for i := range into.Subkeys {
		have := &into.Subkeys[i]
		if bytes.Equal(have.PublicKey.Fingerprint, subkey.PublicKey.Fingerprint) {
			have.Revocations = append(have.Revocations, subkey.Revocations...)
			have.Sig = newer(have.Sig, subkey.Sig)
			return
		}
	}
	into.Subkeys = append(into.Subkeys, subkey)
}

func newer(a, b *packet.Signature) *packet.Signature {
	if a == nil || b != nil && b.CreationTime.After(a.CreationTime) {
		return b
	}
	return a
}

// Keys returns the keys one by one.
func (r Keyring) Keys() []PublicKey {
	keys := make([]PublicKey, len(r.entities))
	for i, e := range r.entities {
		keys[i] = PublicKey{e}
	}
	return keys
}

// Verify judges a signature as a client would at a time, and returns beside what it says its payload. ErrUnknownKey when none of
// the keys made it; Invalid otherwise.
func (r Keyring) Verify(raw []byte, at time.Time) (Verified, []byte, error) {
	foreign, packets, err := read(raw)
	if err != nil {
		return Verified{}, nil, err
	}
	payload, sig, err := takeApart(packets.packets)
	if err != nil {
		return Verified{}, nil, err
	}
	for _, e := range r.entities {
		key, own := issuedBy(e, foreign, sig)
		if key == nil {
			continue
		}
		if err := key.judge(e, sig, payload, at); err != nil {
			return Verified{}, nil, err
		}
		return Verified{
			claim: foreign.Claim, primary: PublicKey{e}.Fingerprint(), issuer: own, keyID: foreign.KeyID, createdAt: foreign.CreatedAt,
		}, payload, nil
	}
	return Verified{}, nil, ErrUnknownKey
}

// clientKey is one that may have made a signature: a primary key or a subkey, with what its primary key says of it.
type clientKey struct {
	public      *packet.PublicKey
	self        *packet.Signature
	revocations []*packet.Signature
}

// issuedBy returns the key of an entity that a signature names, and its fingerprint; nil when it is none of them.
func issuedBy(e *openpgp.Entity, s Signature, sig *packet.Signature) (*clientKey, string) {
	self, _ := e.PrimarySelfSignature()
	keys := []clientKey{{e.PrimaryKey, self, e.Revocations}}
	for _, sub := range e.Subkeys {
		keys = append(keys, clientKey{sub.PublicKey, sub.Sig, sub.Revocations})
	}
	for _, k := range keys {
		fingerprint := strings.ToUpper(hex.EncodeToString(k.public.Fingerprint))
		if idText(k.public.KeyId) == s.KeyID && sig.CheckKeyIdOrFingerprint(k.public) {
			return &k, fingerprint
		}
	}
	return nil, ""
}

// judge says whether a key may have made a signature and has.
func (k clientKey) judge(e *openpgp.Entity, sig *packet.Signature, payload []byte, at time.Time) error {
	primary, identity := e.PrimarySelfSignature()
	if primary == nil || k.self == nil {
		return bad("its key has no self-signature")
	}
	hash, err := sig.PrepareVerify()
	if err != nil || sig.Hash == crypto.MD5 {
		return bad("its hash is weak")
	}
	if _, err := io.Copy(hash, bytes.NewReader(payload)); err != nil {
		return err
	}
	if k.public.VerifySignature(hash, sig) != nil {
		return bad("it is not the key's")
	}
	switch {
	case len(e.Revocations) > 0 || len(k.revocations) > 0:
		return bad("its key was revoked")
	case identity != nil && len(identity.Revocations) > 0:
		return bad("all names of its key were revoked")
	case k.self.FlagsValid && !k.self.FlagSign:
		return bad("its key may not sign")
	case k.public.CreationTime.After(sig.CreationTime) || k.public.CreationTime.After(at):
		return bad("its key is younger")
	case e.PrimaryKey.KeyExpired(primary, at) || k.public.KeyExpired(k.self, at):
		return bad("its key has expired")
	case sig.SigLifetimeSecs != nil && *sig.SigLifetimeSecs > 0 && !at.Before(sig.CreationTime.Add(time.Duration(*sig.SigLifetimeSecs)*time.Second)):
		return bad("it has expired")
	}
	return nil
}
