//go:build cgo

package pkcs11

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"

	"github.com/miekg/pkcs11"

	"github.com/countersign/countersign/internal/fault"
)

// object is a private key in one set of sessions.
type object struct {
	handle pkcs11.ObjectHandle
	kind   uint             // CKK_RSA or CKK_EC
	public crypto.PublicKey // nil when the token does not show it
}

// sign returns a signature of a digest: PKCS #1 v1.5 for RSA, ASN.1 for ECDSA.
func (o *object) sign(lib cryptoki, s pkcs11.SessionHandle, hash crypto.Hash, digest []byte) ([]byte, error) {
	mechanism := uint(pkcs11.CKM_ECDSA)
	if o.kind == pkcs11.CKK_RSA {
		prefix, ok := prefixes[hash]
		if !ok {
			return nil, fmt.Errorf("no DigestInfo prefix for %v", hash)
		}
		mechanism, digest = pkcs11.CKM_RSA_PKCS, append(append([]byte{}, prefix...), digest...)
	}
	if err := lib.SignInit(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)}, o.handle); err != nil {
		return nil, err
	}
	raw, err := lib.Sign(s, digest)
	if err != nil || o.kind == pkcs11.CKK_RSA {
		return raw, err
	}
	half := len(raw) / 2
	return asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(raw[:half]), new(big.Int).SetBytes(raw[half:])})
}

// prefixes are the DER encodings that precede a digest in a PKCS #1 v1.5 signature (RFC 8017, section 9.2, note 1).
var prefixes = map[crypto.Hash][]byte{
	crypto.SHA256: {0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20},
	crypto.SHA384: {0x30, 0x41, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05, 0x00, 0x04, 0x30},
	crypto.SHA512: {0x30, 0x51, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03, 0x05, 0x00, 0x04, 0x40},
}

// object returns the key's object in the sessions c, and finds it first when necessary.
func (k *key) object(c *conn, lib cryptoki, s pkcs11.SessionHandle) (*object, error) {
	name := k.uri.keyName()
	c.mu.Lock()
	o := c.objects[name]
	c.mu.Unlock()
	if o != nil {
		return o, nil
	}
	o, err := k.find(lib, s)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.objects[name] = o
	return o, nil
}

// find finds the one private key that the URI matches, and its public key.
func (k *key) find(lib cryptoki, s pkcs11.SessionHandle) (*object, error) {
	template := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY)}
	if k.uri.Object != "" {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_LABEL, k.uri.Object))
	}
	if k.uri.ID != "" {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_ID, []byte(k.uri.ID)))
	}
	handles, err := search(lib, s, template)
	switch {
	case err != nil:
		return nil, err
	case len(handles) == 0:
		return nil, fault.NewOutage(fault.SigningKey, errors.New(k.uri.keyName()), "The token has no such private key.")
	case len(handles) > 1:
		return nil, fault.New(fault.Invalid, "The PKCS #11 URI matches several keys. Add the id of one.")
	}
	return inspect(lib, s, handles[0])
}

func search(lib cryptoki, s pkcs11.SessionHandle, template []*pkcs11.Attribute) ([]pkcs11.ObjectHandle, error) {
	if err := lib.FindObjectsInit(s, template); err != nil {
		return nil, err
	}
	handles, _, err := lib.FindObjects(s, 2)
	return handles, errors.Join(err, lib.FindObjectsFinal(s))
}

// inspect reads the attributes of a private key. It fails for keys that cannot sign unattended.
func inspect(lib cryptoki, s pkcs11.SessionHandle, h pkcs11.ObjectHandle) (*object, error) {
	a, err := lib.GetAttributeValue(s, h, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, nil), pkcs11.NewAttribute(pkcs11.CKA_ID, nil),
	})
	if err != nil {
		return nil, err
	}
	o := &object{handle: h, kind: number(a[0].Value)}
	if o.kind != pkcs11.CKK_RSA && o.kind != pkcs11.CKK_EC {
		return nil, fault.New(fault.Invalid, "The token's key is neither RSA nor ECDSA.")
	}
	always, err := lib.GetAttributeValue(s, h, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_ALWAYS_AUTHENTICATE, nil)})
	if err == nil && len(always[0].Value) > 0 && always[0].Value[0] != 0 {
		return nil, fault.New(fault.Invalid, "The token requires the PIN for each use of the key, which is not supported.")
	}
	o.public, err = publicOf(lib, s, o, a[1].Value)
	return o, err
}

// publicOf returns the public key of o, or nil when the token does not show it. An RSA private key contains it; for
// other keys it is the public key object with the same id.
func publicOf(lib cryptoki, s pkcs11.SessionHandle, o *object, id []byte) (crypto.PublicKey, error) {
	if o.kind == pkcs11.CKK_RSA {
		if public, err := readRSA(lib, s, o.handle); err == nil {
			return public, nil
		}
	}
	handles, err := search(lib, s, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, o.kind), pkcs11.NewAttribute(pkcs11.CKA_ID, id),
	})
	if err != nil || len(handles) != 1 {
		return nil, err
	}
	if o.kind == pkcs11.CKK_RSA {
		return readRSA(lib, s, handles[0])
	}
	return readECDSA(lib, s, handles[0])
}

func readRSA(lib cryptoki, s pkcs11.SessionHandle, h pkcs11.ObjectHandle) (crypto.PublicKey, error) {
	a, err := lib.GetAttributeValue(s, h, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_MODULUS, nil), pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, nil),
	})
	if err != nil {
		return nil, err
	}
	n, e := new(big.Int).SetBytes(a[0].Value), new(big.Int).SetBytes(a[1].Value)
	if n.Sign() == 0 || e.BitLen() < 2 || e.BitLen() > 31 {
		return nil, fault.New(fault.Invalid, "The token's RSA key has an exponent that clients do not support.")
	}
	return &rsa.PublicKey{N: n, E: int(e.Int64())}, nil
}

// curves are the supported curves by object identifier.
var curves = map[string]elliptic.Curve{
	"1.2.840.10045.3.1.7": elliptic.P256(), "1.3.132.0.34": elliptic.P384(), "1.3.132.0.35": elliptic.P521(),
}

func readECDSA(lib cryptoki, s pkcs11.SessionHandle, h pkcs11.ObjectHandle) (crypto.PublicKey, error) {
	a, err := lib.GetAttributeValue(s, h, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, nil), pkcs11.NewAttribute(pkcs11.CKA_EC_POINT, nil),
	})
	if err != nil {
		return nil, err
	}
	var oid asn1.ObjectIdentifier
	_, err = asn1.Unmarshal(a[0].Value, &oid)
	curve := curves[oid.String()]
	if err != nil || curve == nil {
		return nil, fault.New(fault.Invalid, "The token's ECDSA key is on another curve than P-256, P-384 and P-521.")
	}
	point := a[1].Value
	var inner []byte // the standard requires an OCTET STRING; some tokens return the point itself
	if rest, err := asn1.Unmarshal(point, &inner); err == nil && len(rest) == 0 {
		point = inner
	}
	public, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "The token's public key cannot be parsed.")
	}
	return public, nil
}

// number reads a CK_ULONG, which has the byte order of the machine.
func number(b []byte) uint {
	switch len(b) {
	case 4:
		return uint(binary.NativeEndian.Uint32(b))
	case 8:
		return uint(binary.NativeEndian.Uint64(b))
	}
	return ^uint(0)
}
