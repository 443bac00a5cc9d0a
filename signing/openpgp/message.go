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

// Message signs a payload with a key and returns the binary OpenPGP message that clients read: one-pass signature, literal data,
// signature, not compressed. The signature states the time at.
//
// The secret part of the key may be what go-crypto reads from a file, or any crypto.Signer of the same public key: a key in a token. An
// RSA signer is asked for PKCS #1 v1.5 of a digest, an ECDSA one for ASN.1 of a digest, and an Ed25519 one, as crypto/ed25519, for a signature of the
// digest as its message, with crypto.Hash(0). Message is safe for concurrent use where the signer is.
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
	// The library forgets why a key of RSA or EdDSA did not sign.
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

// unclosed is a writer that has nothing to close.
type unclosed struct{ io.Writer }

// Close does nothing.
func (unclosed) Close() error { return nil }

// hashFor is as strong as the key: OpenPGP demands that of the larger curves (RFC 9580, section 5.2.3.2).
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

// recording returns a key that signs as the given one does, and a function that tells why its crypto.Signer failed last.
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

// recorder keeps a signer's error.
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

// edwards is what go-crypto asks of a curve for EdDSA. Its own name for that is internal.
type edwards interface { //nolint:interfacebloat // its methods are the library's
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

// tokenCurve is a curve on which a crypto.Signer signs: go-crypto takes no signer for EdDSA.
type tokenCurve struct {
	edwards
	signer crypto.Signer
}

// Sign asks the signer.
func (c tokenCurve) Sign(_, _, message []byte) ([]byte, error) {
	return c.signer.Sign(nil, message, crypto.Hash(0))
}

func inToken(point *eddsa.PublicKey, signer crypto.Signer) *eddsa.PrivateKey {
	public := eddsa.NewPublicKey(tokenCurve{point.GetCurve(), signer})
	public.X = point.X
	return eddsa.NewPrivateKey(*public)
}
