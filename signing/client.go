package signing

import (
	"bytes"
	"context"
	"crypto"
	"encoding/hex"
	"io"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/countersign/countersign/internal/fault"
)

// Keyring is a set of keys that a client trusts. Its Verify decides as podman and skopeo do, which use gpg. The
// decisions of this server itself use the function Verify. They differ (docs/verify.md): gpg accepts SHA-1 and times
// in the future, and it rejects all signatures of an expired key, including older ones.
type Keyring struct {
	entities    []*openpgp.Entity
	unevaluated map[uint64]string // reasons by key id
}

// Read parses the keys, verifies their self-signatures and merges copies of the same key. It omits keys that cannot
// be parsed and keys that are not evaluated. The error is Invalid when a blob has neither, and the cause of the end
// of ctx if that comes first.
func (s *ScannedKeyring) Read(ctx context.Context) (Keyring, error) {
	t, err := begin(ctx)
	if err != nil {
		return Keyring{}, err
	}
	defer t.end()
	ring := Keyring{unevaluated: s.unevaluated}
	for _, blocks := range s.blobs {
		found := 0
		var last error
		for _, block := range blocks {
			if block.reason != "" {
				found++
				continue
			}
			keys, err := openpgp.ReadKeyRing(turnReader{t, bytes.NewReader(block.packets)})
			if t.err != nil {
				return Keyring{}, t.err
			}
			if err != nil {
				last = err
				continue
			}
			found += len(keys)
			for _, key := range keys {
				ring.add(key)
			}
		}
		if found == 0 {
			return Keyring{}, noKeys(last)
		}
	}
	return ring, nil
}

func noKeys(cause error) error {
	return fault.Wrap(fault.Invalid, cause, "There are no OpenPGP public keys.")
}

// add adds a key. When the ring has a copy of it, add merges both: the newer self-signatures apply, and the
// revocations of either.
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

// Keys returns the keys.
func (r Keyring) Keys() []PublicKey {
	keys := make([]PublicKey, len(r.entities))
	for i, e := range r.entities {
		keys[i] = PublicKey{e}
	}
	return keys
}

// Verify verifies a signature as a client would at a given time, and returns the payload too.
//
// The error is ErrUnknownKey when none of the keys made the signature. It is a NotEvaluatedError when the signature
// names a key that is not evaluated, and the cause of the end of ctx if that comes first. Other errors are Invalid.
func (r Keyring) Verify(ctx context.Context, raw []byte, at time.Time) (Verified, []byte, error) {
	t, err := begin(ctx)
	if err != nil {
		return Verified{}, nil, err
	}
	defer t.end()
	foreign, packets, err := read(raw)
	if err != nil {
		return Verified{}, nil, err
	}
	payload, sig, err := splitMessage(packets.packets)
	if err != nil {
		return Verified{}, nil, err
	}
	id, err := parseID(foreign.KeyID)
	if err != nil {
		return Verified{}, nil, err
	}
	// Another copy of the key, which is not evaluated, might revoke it.
	if reason := r.unevaluated[id]; reason != "" {
		return Verified{}, nil, &NotEvaluatedError{"the key " + foreign.KeyID + " " + reason}
	}
	for _, e := range r.entities {
		key, own := issuedBy(e, id, sig)
		if key == nil {
			continue
		}
		if err := key.verify(e, sig, payload, at); err != nil {
			return Verified{}, nil, err
		}
		return Verified{
			claim: foreign.Claim, primary: PublicKey{e}.Fingerprint(), issuer: own, keyID: foreign.KeyID, createdAt: foreign.CreatedAt,
		}, payload, nil
	}
	return Verified{}, nil, ErrUnknownKey
}

// clientKey is a primary key or a subkey, with its self-signature and revocations.
type clientKey struct {
	public      *packet.PublicKey
	self        *packet.Signature
	revocations []*packet.Signature
}

// issuedBy returns the key of an entity that a signature names, and its fingerprint. It returns nil when the
// signature names another key.
func issuedBy(e *openpgp.Entity, id uint64, sig *packet.Signature) (*clientKey, string) {
	named := func(k *packet.PublicKey) bool { return k.KeyId == id && sig.CheckKeyIdOrFingerprint(k) }
	fingerprint := func(k *packet.PublicKey) string { return strings.ToUpper(hex.EncodeToString(k.Fingerprint)) }
	if named(e.PrimaryKey) {
		self, _ := e.PrimarySelfSignature()
		return &clientKey{e.PrimaryKey, self, e.Revocations}, fingerprint(e.PrimaryKey)
	}
	for _, sub := range e.Subkeys {
		if named(sub.PublicKey) {
			return &clientKey{sub.PublicKey, sub.Sig, sub.Revocations}, fingerprint(sub.PublicKey)
		}
	}
	return nil, ""
}

// verify returns an error unless the key made the signature and was valid for it.
func (k clientKey) verify(e *openpgp.Entity, sig *packet.Signature, payload []byte, at time.Time) error {
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
