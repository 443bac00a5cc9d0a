package pkcs11

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"net/mail"
	"time"

	pgp "github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/countersign/countersign/internal/fault"
)

// Supported sizes of RSA keys in bits.
const (
	minRSA = 2048
	maxRSA = 4096
)

// NewPublicKey makes the OpenPGP public key for a key in a token and returns it as ASCII armor. user is the user id,
// in the form "Name <mail>". The key has version 4, is created now and does not expire. The token signs once, for the
// user id.
//
// The caller must keep the result: another call returns a key with another fingerprint.
func NewPublicKey(ctx context.Context, uri, user string) (string, error) {
	u, err := ParseURI(uri)
	if err != nil {
		return "", err
	}
	name, err := mail.ParseAddress(user)
	if err != nil {
		return "", fault.Wrap(fault.Invalid, err, "The user id must have the form: Release key <release@example.com>.")
	}
	k := openKey(u)
	public, err := k.public(ctx, 0)
	if err != nil {
		return "", err
	}
	if public == nil {
		return "", fault.New(fault.Invalid, "The token does not show the public key. Make the OpenPGP key elsewhere and pass it with --public-key.")
	}
	now := time.Now().Truncate(time.Second)
	part, err := publicPart(public, now)
	if err != nil {
		return "", err
	}
	signer := &inToken{ctx: ctx, key: k}
	e := &pgp.Entity{
		PrimaryKey: part, PrivateKey: &packet.PrivateKey{PublicKey: *part, PrivateKey: signer}, Identities: map[string]*pgp.Identity{},
	}
	err = e.AddUserId(name.Name, "", name.Address, &packet.Config{DefaultHash: hashFor(public), Time: func() time.Time { return now }})
	if err = errors.Join(signer.err, err); err != nil {
		return "", fmt.Errorf("sign the user id: %w", err)
	}
	return armored(e)
}

func armored(e *pgp.Entity) (string, error) {
	var b bytes.Buffer
	w, err := armor.Encode(&b, pgp.PublicKeyType, nil)
	if err != nil {
		return "", err
	}
	if err := errors.Join(e.Serialize(w), w.Close()); err != nil {
		return "", fmt.Errorf("write public key: %w", err)
	}
	return b.String(), nil
}

// hashFor returns the hash for signatures with a key. OpenPGP requires hashes of at least the strength of the curve
// (RFC 9580, section 5.2.3.2).
func hashFor(public crypto.PublicKey) crypto.Hash {
	if k, ok := public.(*ecdsa.PublicKey); ok {
		switch k.Curve {
		case elliptic.P384():
			return crypto.SHA384
		case elliptic.P521():
			return crypto.SHA512
		}
	}
	return crypto.SHA256
}

// curveIDs are the object identifiers of curves in public key packets, each preceded by its length (RFC 9580, section
// 9.2).
var curveIDs = map[elliptic.Curve][]byte{
	elliptic.P256(): {8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07},
	elliptic.P384(): {5, 0x2b, 0x81, 0x04, 0x00, 0x22},
	elliptic.P521(): {5, 0x2b, 0x81, 0x04, 0x00, 0x23},
}

// publicPart returns the OpenPGP version 4 key with the creation time at. It fails with Invalid for weak keys and for
// keys that clients do not support.
func publicPart(public crypto.PublicKey, at time.Time) (*packet.PublicKey, error) {
	switch k := public.(type) {
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < minRSA || n > maxRSA {
			return nil, fault.New(fault.Invalid, "The token's key has %d bits; RSA keys of %d to %d bits can be used.", n, minRSA, maxRSA)
		}
		return packet.NewRSAPublicKey(at, k), nil
	case *ecdsa.PublicKey:
		return ecdsaPart(k, at)
	}
	return nil, fault.New(fault.Invalid, "The token's key is neither RSA nor ECDSA.")
}

// ecdsaPart encodes the packet of an ECDSA key (RFC 9580, section 5.5.2.2) and parses it, since the library has no
// constructor for ECDSA keys.
func ecdsaPart(k *ecdsa.PublicKey, at time.Time) (*packet.PublicKey, error) {
	point, err := k.Bytes()
	if err != nil {
		return nil, err
	}
	body := []byte{4}
	body = binary.BigEndian.AppendUint32(body, uint32(at.Unix()))
	body = append(body, byte(packet.PubKeyAlgoECDSA))
	body = append(body, curveIDs[k.Curve]...)
	body = binary.BigEndian.AppendUint16(body, uint16(new(big.Int).SetBytes(point).BitLen()))
	body = append(body, point...)
	p, err := packet.Read(bytes.NewReader(append([]byte{0x99, byte(len(body) >> 8), byte(len(body))}, body...)))
	if err != nil {
		return nil, err
	}
	part, ok := p.(*packet.PublicKey)
	if !ok {
		return nil, errors.New("the encoded public key is not parsed as a public key")
	}
	return part, nil
}
