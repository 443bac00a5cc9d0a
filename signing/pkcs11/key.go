//go:build cgo

package pkcs11

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"math/big"
	"sync"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/countersign/countersign/internal/fault"
)

// The libraries, tokens and keys of this process.
var (
	registryMu sync.Mutex
	modules    = map[string]*module{}
	tokens     = map[[3]string]*token{}
	keys       = map[[4]string]*key{}
)

// key is a private key in a token. It is safe for concurrent use.
type key struct {
	uri   URI
	token *token

	mu      sync.Mutex
	known   bool // the key was looked for at least once
	err     error
	checked time.Time
	probing chan struct{} // closed at the end of the look that is under way; nil: there is none
}

// openKey returns the key of a URI, without touching the token.
func openKey(u URI) *key {
	registryMu.Lock()
	defer registryMu.Unlock()
	m := modules[u.Module]
	if m == nil {
		m = newModule(u.Module, loadLibrary)
		modules[u.Module] = m
	}
	id := [3]string{u.Module, u.tokenName(), u.PINFile}
	t := tokens[id]
	if t == nil {
		t = &token{uri: u, mod: m}
		tokens[id] = t
	}
	keyID := [4]string{id[0], id[1], id[2], u.keyName()}
	k := keys[keyID]
	if k == nil {
		k = &key{uri: u, token: t}
		keys[keyID] = k
	}
	return k
}

// object is a key as a generation of sessions knows it.
type object struct {
	handle pkcs11.ObjectHandle
	kind   uint             // CKK_RSA or CKK_EC
	public crypto.PublicKey // nil: the token does not show it
}

// usable says what was found when the key was last looked at or used, and has it looked at from time to time. It waits for the token once, a second at most.
func (k *key) usable() error {
	k.mu.Lock()
	pause := probeEvery
	if k.err != nil {
		pause = time.Second
	}
	if k.probing == nil && (!k.known || time.Since(k.checked) >= pause) {
		k.probing = make(chan struct{})
		go k.probe()
	}
	c, first := k.probing, !k.known
	k.mu.Unlock()
	if first {
		select {
		case <-c:
		case <-time.After(time.Second):
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.known {
		k.known, k.err = true, errSlow
	}
	return k.err
}

// probe looks whether the key is there.
func (k *key) probe() {
	ctx := context.Background() //nolint:forbidigo // nobody waits for it, and it ends by itself
	_, _ = patiently(ctx, k, 0, func(c *conn) (*object, error) {
		return within(ctx, k.token, c, func(lib cryptoki, s pkcs11.SessionHandle) (*object, error) { return k.find(lib, s) })
	})
	k.mu.Lock()
	defer k.mu.Unlock()
	close(k.probing)
	k.probing = nil
}

func (k *key) note(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.known, k.err, k.checked = true, err, time.Now()
}

// patiently does f with sessions, and again while the token is away, for a time. Once more it does so in any case: sessions end when
// another token's absence has the library started anew.
func patiently[T any](ctx context.Context, k *key, wait time.Duration, f func(*conn) (T, error)) (T, error) {
	end := time.Now().Add(wait)
	again := true
	for pause := firstPause / 10; ; pause = min(2*pause, 2*time.Second) {
		c, err := k.token.connection(ctx)
		var value T
		if err == nil {
			value, err = f(c)
		}
		switch {
		case ctx.Err() != nil && err != nil:
			return value, context.Cause(ctx)
		case !isAway(err):
			k.note(err)
			return value, err
		}
		k.note(err)
		left := time.Until(end)
		if left <= 0 && !again {
			return value, unreachable(err)
		}
		again = false
		select {
		case <-time.After(min(pause, max(left, 0))):
		case <-ctx.Done():
			return value, context.Cause(ctx)
		}
	}
}

func unreachable(err error) error {
	why := err.Error() + "."
	if e, ok := errors.AsType[*fault.Error](err); ok {
		why = e.Msg
	}
	return fault.Wrap(fault.Unavailable, err, "The signing key cannot be reached: %s", why)
}

// public returns the key's public part; nil when the token does not show it. It waits for a token that is away.
func (k *key) public(ctx context.Context, wait time.Duration) (crypto.PublicKey, error) {
	return patiently(ctx, k, wait, func(c *conn) (crypto.PublicKey, error) {
		o, err := within(ctx, k.token, c, func(lib cryptoki, s pkcs11.SessionHandle) (*object, error) { return k.object(c, lib, s) })
		if err != nil {
			return nil, err
		}
		return o.public, nil
	})
}

// sign returns a signature of a digest: PKCS #1 v1.5 of RSA, ASN.1 of ECDSA. It waits for a token that is away.
func (k *key) sign(ctx context.Context, wait time.Duration, hash crypto.Hash, digest []byte) ([]byte, error) {
	return patiently(ctx, k, wait, func(c *conn) ([]byte, error) {
		return within(ctx, k.token, c, func(lib cryptoki, s pkcs11.SessionHandle) ([]byte, error) {
			o, err := k.object(c, lib, s)
			if err != nil {
				return nil, err
			}
			return o.sign(lib, s, hash, digest)
		})
	})
}

func (o *object) sign(lib cryptoki, s pkcs11.SessionHandle, hash crypto.Hash, digest []byte) ([]byte, error) {
	mechanism := uint(pkcs11.CKM_ECDSA)
	if o.kind == pkcs11.CKK_RSA {
		prefix, ok := prefixes[hash]
		if !ok {
			return nil, errors.New("hash that no signature is made with")
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

// prefixes stand before a digest in a signature of RSA (RFC 8017, section 9.2, note 1).
var prefixes = map[crypto.Hash][]byte{
	crypto.SHA256: {0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20},
	crypto.SHA384: {0x30, 0x41, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05, 0x00, 0x04, 0x30},
	crypto.SHA512: {0x30, 0x51, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03, 0x05, 0x00, 0x04, 0x40},
}

// object returns the key in these sessions, which it looks for once.
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

// find looks for the one private key that the URI is about, and its public part.
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
		return nil, awayError{fault.Wrap(fault.Invalid, errors.New(k.uri.keyName()), "The token has no such private key.")}
	case len(handles) > 1:
		return nil, fault.New(fault.Invalid, "The PKCS #11 URI is about several keys: say its id.")
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

// inspect reads what a private key is.
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
		return nil, fault.New(fault.Invalid, "The token asks for the PIN at each use of the key, which is not supported.")
	}
	o.public, err = publicOf(lib, s, o, a[1].Value)
	return o, err
}

// publicOf reads a key's public part: from the private key where it is of RSA, else from the public key with the same id.
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
		return nil, fault.New(fault.Invalid, "The token's key is RSA with an exponent that clients do not read.")
	}
	return &rsa.PublicKey{N: n, E: int(e.Int64())}, nil
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
	var curve elliptic.Curve
	for id, c := range map[string]elliptic.Curve{"1.2.840.10045.3.1.7": elliptic.P256(), "1.3.132.0.34": elliptic.P384(), "1.3.132.0.35": elliptic.P521()} {
		if oid.String() == id {
			curve = c
		}
	}
	if err != nil || curve == nil {
		return nil, fault.New(fault.Invalid, "The token's key is ECDSA over another curve than P-256, P-384 and P-521.")
	}
	point := a[1].Value
	var inner []byte // the standard wraps the point; some tokens do not
	if rest, err := asn1.Unmarshal(point, &inner); err == nil && len(rest) == 0 {
		point = inner
	}
	public, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "The token's key has a public part that cannot be read.")
	}
	return public, nil
}

// number reads a CK_ULONG, which is in the machine's own order.
func number(b []byte) uint {
	switch len(b) {
	case 4:
		return uint(binary.NativeEndian.Uint32(b))
	case 8:
		return uint(binary.NativeEndian.Uint64(b))
	}
	return ^uint(0)
}
