package openpgp

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/eddsa"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// Message signs a payload with a key and returns a binary OpenPGP message in the form that clients accept: one-pass
// signature, literal data, signature, without compression. at is the time of the signature.
//
// The private part of key may be a key of go-crypto, or any crypto.Signer of the same public key, for example one in
// a token. An RSA signer must return a PKCS #1 v1.5 signature of a digest, and an ECDSA signer an ASN.1 signature of
// a digest. An Ed25519 signer gets the digest as its message, with crypto.Hash(0). Message is safe for concurrent use
// if the signer is.
func Message(key *packet.PrivateKey, payload []byte, at time.Time) ([]byte, error) {
	key, failed := recording(key)
	hash := hashFor(&key.PublicKey)
	onePass := packet.OnePassSignature{
		Version: 3, SigType: packet.SigTypeBinary, Hash: hash, PubKeyAlgo: key.PubKeyAlgo, KeyId: key.KeyId, IsLast: true,
	}
	sig := packet.Signature{
		Version: key.Version, SigType: packet.SigTypeBinary, Hash: hash, PubKeyAlgo: key.PubKeyAlgo, CreationTime: at,
		IssuerKeyId: &key.KeyId, IssuerFingerprint: key.Fingerprint,
	}
	h := hash.New()
	_, _ = h.Write(payload)
	err := sig.Sign(h, key, &packet.Config{Time: func() time.Time { return at }})
	// The library drops the errors of RSA and EdDSA signers.
	if err = errors.Join(failed(), err); err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	var b bytes.Buffer
	if err := errors.Join(onePass.Serialize(&b), literal(&b, payload), sig.Serialize(&b)); err != nil {
		return nil, fmt.Errorf("write signature: %w", err)
	}
	return b.Bytes(), nil
}

func literal(b *bytes.Buffer, payload []byte) error {
	w, err := packet.SerializeLiteral(unclosed{b}, true, "", 0)
	if err != nil {
		return err
	}
	_, err = w.Write(payload)
	return errors.Join(err, w.Close())
}

// unclosed is a writer whose Close does nothing.
type unclosed struct{ io.Writer }

// Close does nothing.
func (unclosed) Close() error { return nil }

// hashFor returns the hash for signatures with a key. OpenPGP requires hashes of at least the strength of the curve
// (RFC 9580, section 5.2.3.2).
func hashFor(key *packet.PublicKey) crypto.Hash {
	if curve, err := key.Curve(); err == nil {
		switch curve {
		case packet.CurveNistP384:
			return crypto.SHA384
		case packet.CurveNistP521:
			return crypto.SHA512
		default:
		}
	}
	return crypto.SHA256
}

// recording returns a key that signs as the given one, and a function that returns the last error of its crypto.Signer.
func recording(key *packet.PrivateKey) (*packet.PrivateKey, func() error) {
	signer, ok := key.PrivateKey.(crypto.Signer)
	if !ok {
		return key, func() error { return nil }
	}
	r := &recorder{Signer: signer}
	wrapped := *key
	wrapped.PrivateKey = r
	if point, ok := key.PublicKey.PublicKey.(*eddsa.PublicKey); ok {
		wrapped.PrivateKey = inToken(point, r)
	}
	return &wrapped, r.last
}

// recorder keeps the last error of a signer.
type recorder struct {
	crypto.Signer
	mu  sync.Mutex
	err error
}

// Sign implements crypto.Signer.
func (r *recorder) Sign(random io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	sig, err := r.Signer.Sign(random, digest, o)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
	return sig, err
}

func (r *recorder) last() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// edwards is the interface of EdDSA curves in go-crypto, whose own name for it is internal.
type edwards interface { //nolint:interfacebloat // the library defines the methods
	GetCurveName() string
	MarshalBytePoint(x []byte) []byte
	UnmarshalBytePoint(b []byte) []byte
	MarshalByteSecret(d []byte) []byte
	UnmarshalByteSecret(b []byte) []byte
	MarshalSignature(sig []byte) (r, s []byte)
	UnmarshalSignature(r, s []byte) []byte
	GenerateEdDSA(random io.Reader) (pub, priv []byte, err error)
	Sign(publicKey, privateKey, message []byte) ([]byte, error)
	Verify(publicKey, message, sig []byte) bool
	ValidateEdDSA(publicKey, privateKey []byte) error
}

// tokenCurve makes EdDSA signatures with a crypto.Signer, which go-crypto does not support.
type tokenCurve struct {
	edwards
	signer crypto.Signer
}

// Sign signs the message with the crypto.Signer.
func (c tokenCurve) Sign(_, _, message []byte) ([]byte, error) {
	return c.signer.Sign(nil, message, crypto.Hash(0))
}

func inToken(point *eddsa.PublicKey, signer crypto.Signer) *eddsa.PrivateKey {
	public := eddsa.NewPublicKey(tokenCurve{point.GetCurve(), signer})
	public.X = point.X
	return eddsa.NewPrivateKey(*public)
}
