package signing

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
)

// MaxSize is how many bytes a signature may have (contract 4).
const MaxSize = 4_000_000

// maxUnpacked is how many bytes a compressed signature may unpack to: a claim, a signature packet and their frames.
const maxUnpacked = 256 << 10

// Signature is what a signature from outside says of itself. Nobody has verified any of it.
type Signature struct {
	KeyID       string    // of the issuing key: 16 upper-case hex digits
	Fingerprint string    // of the issuing key, upper-case hex; empty when the signature does not say
	CreatedAt   time.Time // of the OpenPGP packet
	Claim       Claim
}

// Digest returns the digest by which a signature is known: sha256 of its bytes.
func Digest(raw []byte) digest.Digest { return digest.FromBytes(raw) }

// Name returns the name by which clients know a signature of a manifest: the manifest's digest, @, and the first 32 hex digits of
// its own (contract 5.6).
func Name(manifest digest.Digest, raw []byte) string {
	return string(manifest) + "@" + Digest(raw).Encoded()[:32]
}

var errNotSigned = fault.New(fault.Invalid, "Not one OpenPGP signed message.")

func notSigned(why string) error {
	return fault.Wrap(fault.Invalid, fmt.Errorf("%s", why), "%s", errNotSigned.Msg)
}

// Parse reads a signature from outside: a binary OpenPGP message of exactly one-pass signature, literal data and signature, which
// may be compressed as a whole, and whose literal data is a claim. Anything beside, before or behind that is refused. Invalid
// otherwise.
func Parse(raw []byte) (Signature, error) {
	if len(raw) > MaxSize {
		return Signature{}, fault.New(fault.TooLarge, "A signature may have %d bytes.", MaxSize)
	}
	payload, sig, err := takeApart(raw)
	if err != nil {
		return Signature{}, err
	}
	claim, err := ParseClaim(payload)
	if err != nil {
		return Signature{}, err
	}
	s := Signature{CreatedAt: sig.CreationTime.UTC(), Claim: claim}
	s.KeyID, s.Fingerprint, err = issuer(sig)
	return s, err
}

// issuer returns the id and, where the signature says it, the fingerprint of the key that made a signature (contract 5.6).
func issuer(sig *packet.Signature) (keyID, fingerprint string, err error) {
	fingerprint = strings.ToUpper(hex.EncodeToString(sig.IssuerFingerprint))
	switch {
	case sig.IssuerKeyId != nil:
		keyID = fmt.Sprintf("%016X", *sig.IssuerKeyId)
	case len(fingerprint) == 40:
		keyID = fingerprint[24:]
	case len(fingerprint) >= 16:
		keyID = fingerprint[:16]
	default:
		return "", "", notSigned("it does not say by which key")
	}
	return keyID, fingerprint, nil
}

// takeApart returns the literal data and the signature packet of a signed message, after seeing that it is nothing else.
func takeApart(raw []byte) ([]byte, *packet.Signature, error) {
	message, err := unpack(raw)
	if err != nil {
		return nil, nil, err
	}
	r := bytes.NewReader(message)
	first, err := packet.Read(r)
	if err != nil {
		return nil, nil, notSigned("no packets")
	}
	onePass, ok := first.(*packet.OnePassSignature)
	if !ok || !onePass.IsLast || onePass.SigType != packet.SigTypeBinary {
		return nil, nil, notSigned("it does not begin with one binary one-pass signature")
	}
	second, err := packet.Read(r)
	if err != nil {
		return nil, nil, notSigned("no literal data")
	}
	literal, ok := second.(*packet.LiteralData)
	if !ok {
		return nil, nil, notSigned("no literal data")
	}
	payload, err := io.ReadAll(io.LimitReader(literal.Body, maxClaim+1))
	if err != nil || len(payload) > maxClaim {
		return nil, nil, notSigned("literal data that is too long or broken")
	}
	third, err := packet.Read(r)
	if err != nil {
		return nil, nil, notSigned("no signature")
	}
	sig, ok := third.(*packet.Signature)
	if !ok || sig.SigType != packet.SigTypeBinary || sig.Hash != onePass.Hash {
		return nil, nil, notSigned("no binary signature as announced")
	}
	if r.Len() != 0 {
		return nil, nil, notSigned("something behind the signature")
	}
	return payload, sig, nil
}

// unpack returns the packets of a message, unpacked when they are compressed as a whole.
func unpack(raw []byte) ([]byte, error) {
	if len(raw) == 0 || raw[0]&0x80 == 0 {
		return nil, notSigned("no binary packets")
	}
	r := bytes.NewReader(raw)
	first, err := packet.Read(r)
	if err != nil {
		return nil, notSigned("no packets")
	}
	compressed, ok := first.(*packet.Compressed)
	if !ok {
		return raw, nil
	}
	message, err := io.ReadAll(io.LimitReader(compressed.Body, maxUnpacked+1))
	if err != nil || len(message) > maxUnpacked {
		return nil, notSigned("it unpacks to too much or not at all")
	}
	if _, err := packet.Read(r); err != io.EOF { // what the compressed packet left is the message's end
		return nil, notSigned("something behind the compressed packet")
	}
	return message, nil
}
