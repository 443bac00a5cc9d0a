package openpgp

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	pgp "github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/safefile"
	"github.com/countersign/countersign/signing"
)

// Options configure a Signer.
type Options struct {
	KeyFile        string // file with one secret key, armored or binary, in the format of gpg --export-secret-keys
	PassphraseFile string // file with the passphrase on its first line; empty when the key has none
	Creator        string // creator in claims
}

// ErrNotValid is returned for a key that may not sign any more because it has expired or was revoked.
var ErrNotValid = errors.New("the key is not valid")

// Supported sizes of RSA keys in bits.
const (
	minRSA = 2048
	maxRSA = 4096
)

// Tags of packets (RFC 9580, section 5).
const (
	tagSecretKey    = 5
	tagPublicKey    = 6
	tagSecretSubkey = 7
)

// keyVersion is the version of OpenPGP keys that all clients support. GnuPG does not support version 6.
const keyVersion = 4

// Load reads and decrypts a key. Its files must be regular files that only their owner can access.
//
// The primary key signs if it may and its secret part is present, and otherwise the newest subkey for which that is
// so. (gpg prefers the subkey, but podman and skopeo of Debian 12 accept only signatures of the primary key under a
// policy.) The signer keeps only the secret part that signs.
//
// All errors are Invalid, do not show file content, and may wrap ErrNotValid.
func Load(o Options) (*Signer, error) {
	s, _, err := load(o)
	return s, err
}

// load also returns the files that it read.
func load(o Options) (*Signer, []fs.FileInfo, error) {
	raw, info, err := safefile.ReadSecret(o.KeyFile, "key file", maxKeyFile)
	if err != nil {
		return nil, nil, err
	}
	files := []fs.FileInfo{info}
	var pass passphrase
	if o.PassphraseFile != "" {
		if pass, info, err = readPassphrase(o.PassphraseFile); err != nil {
			return nil, nil, err
		}
		files = append(files, info)
	}
	s, err := parse(raw, pass)
	if err != nil {
		return nil, files, cannot(err, o.KeyFile)
	}
	s.creator = o.Creator
	return s, files, nil
}

// cannot returns the error for a key that cannot be used. which, its file or fingerprint, identifies it in the log.
func cannot(err error, which string) error {
	why := "it is damaged."
	if msg, ok := fault.Message(err); ok {
		why = msg
	}
	return fault.Wrap(fault.Invalid, fmt.Errorf("%s: %w", which, err), "The key cannot be used: %s", why)
}

// parse parses a key, decrypts the part that signs and removes all other secret parts.
func parse(raw []byte, pass passphrase) (*Signer, error) {
	e, err := readKey(raw)
	if err != nil {
		return nil, err
	}
	key, err := signingKey(e, time.Now())
	if err != nil {
		return nil, err
	}
	if err := checkAlgorithm(&key.PublicKey); err != nil {
		return nil, err
	}
	if key.Encrypted && len(pass) == 0 {
		return nil, fault.New(fault.Invalid, "it is protected, and there is no passphrase file.")
	}
	if err := key.Decrypt(pass); err != nil {
		return nil, fault.New(fault.Invalid, "the passphrase is wrong, or the key is damaged.")
	}
	e.PrivateKey = nil
	for i := range e.Subkeys {
		e.Subkeys[i].PrivateKey = nil
	}
	s := &Signer{key: key, entity: e}
	if s.armored, err = armored(e); err != nil {
		return nil, err
	}
	s.public, err = signing.ParsePublicKey(s.armored)
	return s, err
}

// readKey parses exactly one secret key, armored or binary.
func readKey(raw []byte) (*pgp.Entity, error) {
	raw, err := unarmored(raw)
	if err != nil {
		return nil, err
	}
	if err := checkPackets(raw); err != nil {
		return nil, err
	}
	e, err := pgp.ReadEntity(packet.NewReader(bytes.NewReader(raw)))
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "it is damaged or not supported.")
	}
	return e, nil
}

func unarmored(raw []byte) ([]byte, error) {
	if len(raw) > 0 && raw[0]&0x80 != 0 { // the first byte of a packet has this bit set, and armor is ASCII
		return raw, nil
	}
	if bytes.Count(raw, []byte("-----BEGIN ")) > 1 {
		return nil, fault.New(fault.Invalid, "the key material has several keys; exactly one is required.")
	}
	block, err := armor.Decode(bytes.NewReader(raw))
	if err != nil {
		return nil, fault.New(fault.Invalid, "the key material has no OpenPGP key.")
	}
	if block.Type == pgp.PublicKeyType {
		return nil, errOnlyPublic
	}
	body, err := io.ReadAll(block.Body)
	if err != nil || block.Type != pgp.PrivateKeyType {
		return nil, fault.New(fault.Invalid, "the key material has no OpenPGP key.")
	}
	return body, nil
}

var errOnlyPublic = fault.New(fault.Invalid, "the key material has the public key only; gpg --export-secret-keys exports both parts.")

// checkPackets returns an error unless there is exactly one secret key, of version 4. The library skips unknown
// versions.
func checkPackets(raw []byte) error {
	secret, public := 0, 0
	r := packet.NewOpaqueReader(bytes.NewReader(raw))
	for {
		p, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return fault.New(fault.Invalid, "the key material has no OpenPGP key.")
		}
		switch p.Tag {
		case tagSecretKey:
			secret++
		case tagPublicKey:
			public++
		}
		if (p.Tag == tagSecretKey || p.Tag == tagSecretSubkey) && (len(p.Contents) == 0 || p.Contents[0] != keyVersion) {
			return fault.New(fault.Invalid, "it is not a version 4 key, and not all clients support others.")
		}
	}
	switch {
	case secret+public > 1:
		return fault.New(fault.Invalid, "the key material has %d keys; exactly one is required.", secret+public)
	case public == 1:
		return errOnlyPublic
	case secret == 0:
		return fault.New(fault.Invalid, "the key material has no OpenPGP key.")
	}
	return nil
}

// signingKey returns the part of a key that signs.
func signingKey(e *pgp.Entity, now time.Time) (*packet.PrivateKey, error) {
	for _, key := range parts(e) {
		if _, ok := e.SigningKeyById(now, key.KeyId); ok {
			return key, nil
		}
	}
	return nil, whyNot(e, now)
}

// parts returns the parts of a key with secret parts: the primary key, and then the subkeys from the newest to the
// oldest.
func parts(e *pgp.Entity) []*packet.PrivateKey {
	subkeys := slices.Clone(e.Subkeys)
	slices.SortStableFunc(subkeys, func(a, b pgp.Subkey) int {
		return cmp.Compare(b.Sig.CreationTime.Unix(), a.Sig.CreationTime.Unix())
	})
	var found []*packet.PrivateKey
	for _, k := range append([]pgp.Subkey{{PrivateKey: e.PrivateKey}}, subkeys...) {
		if k.PrivateKey != nil && !k.PrivateKey.Dummy() {
			found = append(found, k.PrivateKey)
		}
	}
	return found
}

// whyNot returns the reason why no part of a key may sign.
func whyNot(e *pgp.Entity, now time.Time) error {
	self, _ := e.PrimarySelfSignature()
	signs := func(k pgp.Subkey) bool { return k.Sig.FlagsValid && k.Sig.FlagSign }
	switch {
	case e.Revoked(now):
		return fault.Wrap(fault.Invalid, ErrNotValid, "it was revoked.")
	case self == nil || e.PrimaryKey.KeyExpired(self, now) || self.SigExpired(now):
		return fault.Wrap(fault.Invalid, ErrNotValid, "it has expired.")
	case slices.ContainsFunc(e.Subkeys, signs):
		return fault.Wrap(fault.Invalid, ErrNotValid, "its signing subkey has expired, was revoked, or has no secret part.")
	}
	return fault.New(fault.Invalid, "no part of it may sign, or the secret part is missing.")
}

// checkAlgorithm returns an error for weak keys and for keys that clients do not support.
func checkAlgorithm(key *packet.PublicKey) error {
	curve, _ := key.Curve()
	switch key.PubKeyAlgo {
	case packet.PubKeyAlgoRSA, packet.PubKeyAlgoRSASignOnly:
		bits, err := key.BitLength()
		if err != nil || bits < minRSA || bits > maxRSA {
			return fault.New(fault.Invalid, "it has %d bits; RSA keys of %d to %d bits can be used.", bits, minRSA, maxRSA)
		}
		return nil
	case packet.PubKeyAlgoEdDSA:
		if curve == packet.Curve25519 {
			return nil
		}
	case packet.PubKeyAlgoECDSA:
		if curve == packet.CurveNistP256 || curve == packet.CurveNistP384 || curve == packet.CurveNistP521 {
			return nil
		}
	default:
	}
	return fault.New(fault.Invalid, "its algorithm is none of RSA, Ed25519 and ECDSA over a NIST curve, which clients support.")
}

// armored returns the public key as ASCII armor.
func armored(e *pgp.Entity) (string, error) {
	var b bytes.Buffer
	w, err := armor.Encode(&b, pgp.PublicKeyType, nil)
	if err != nil {
		return "", err
	}
	if err := errors.Join(e.Serialize(w), w.Close()); err != nil {
		return "", err
	}
	return b.String(), nil
}
