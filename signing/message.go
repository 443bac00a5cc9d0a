package signing

import (
	"bytes"
	"compress/bzip2"
	"compress/flate"
	"compress/zlib"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
)

// MaxSize is how many bytes a signature may have (contract 4).
const MaxSize = 4_000_000

// maxUnpacked is how many bytes the packets of a signature may have, after unpacking: a claim, a signature packet and their frames. Packets
// may hold a million parts for each million bytes, and each verification reads them again.
const maxUnpacked = 256 << 10

// Signature is what a signature from outside says of itself. Nobody has verified any of it.
type Signature struct {
	KeyID       string    // of the issuing key: 16 upper-case hex digits
	Fingerprint string    // of the issuing key, upper-case hex; empty when the signature does not say
	CreatedAt   time.Time // of the OpenPGP packet
	ExpiresAt   time.Time // zero: never
	Claim       Claim
}

// Digest returns the digest by which a signature is known: sha256 of its bytes.
func Digest(raw []byte) digest.Digest { return digest.FromBytes(raw) }

// Name returns the name by which clients know a signature of a manifest: the manifest's digest, @, and the first 32 hex digits of
// its own (contract 5.6).
func Name(manifest digest.Digest, raw []byte) string {
	return string(manifest) + "@" + Digest(raw).Encoded()[:32]
}

func notSigned(why string) error {
	return fault.New(fault.Invalid, "Not one OpenPGP signed message: %s.", why)
}

// Parse reads a signature from outside: a binary OpenPGP message of exactly one-pass signature, literal data and signature, which
// may be compressed as a whole, and whose literal data is a claim. Anything beside, before or behind that is refused, and so are two names
// of its key that differ. TooLarge over MaxSize; Invalid otherwise.
func Parse(raw []byte) (Signature, error) {
	s, _, err := read(raw)
	return s, err
}

// message is what a signature was read from: its packets, and the payload in them.
type message struct{ packets, payload []byte }

// read reads a signature, and returns beside what it says the packets that say it: what is verified must be what was read.
func read(raw []byte) (Signature, message, error) {
	if len(raw) > MaxSize {
		return Signature{}, message{}, fault.New(fault.TooLarge, "A signature may have %d bytes.", MaxSize)
	}
	packets, err := unpack(raw)
	if err != nil {
		return Signature{}, message{}, err
	}
	payload, sig, err := takeApart(packets)
	if err != nil {
		return Signature{}, message{}, err
	}
	claim, err := ParseClaim(payload)
	if err != nil {
		return Signature{}, message{}, err
	}
	s := Signature{CreatedAt: sig.CreationTime.UTC(), Claim: claim}
	if sig.SigLifetimeSecs != nil && *sig.SigLifetimeSecs != 0 {
		s.ExpiresAt = s.CreatedAt.Add(time.Duration(*sig.SigLifetimeSecs) * time.Second)
	}
	s.KeyID, s.Fingerprint, err = issuer(sig)
	return s, message{packets, payload}, err
}

// issuer returns the id and, where the signature says it, the fingerprint of the key that made a signature (contract 5.6).
func issuer(sig *packet.Signature) (keyID, fingerprint string, err error) {
	fingerprint = strings.ToUpper(hex.EncodeToString(sig.IssuerFingerprint))
	switch {
	case len(fingerprint) == 40:
		keyID = fingerprint[24:]
	case len(fingerprint) >= 16:
		keyID = fingerprint[:16]
	case sig.IssuerKeyId == nil:
		return "", "", notSigned("it does not say by which key")
	default:
		return idText(*sig.IssuerKeyId), "", nil
	}
	if sig.IssuerKeyId != nil && idText(*sig.IssuerKeyId) != keyID {
		return "", "", notSigned("it names two keys")
	}
	return keyID, fingerprint, nil
}

// idText spells a key id: 16 upper-case hex digits.
func idText(id uint64) string { return fmt.Sprintf("%016X", id) }

// parseID reads a key id as idText spells it.
func parseID(text string) (uint64, error) {
	id, err := strconv.ParseUint(text, 16, 64)
	if err != nil || text != idText(id) {
		return 0, notSigned("it does not say by which key")
	}
	return id, nil
}

// takeApart returns the literal data and the signature packet of a signed message, after seeing that it is nothing else.
func takeApart(message []byte) ([]byte, *packet.Signature, error) {
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
	if keyID, _, err := issuer(sig); err != nil {
		return nil, nil, err
	} else if keyID != idText(onePass.KeyId) {
		return nil, nil, notSigned("it announces another key than it names")
	}
	if r.Len() != 0 {
		return nil, nil, notSigned("something behind the signature")
	}
	return payload, sig, nil
}

// Tag and algorithms of a compressed data packet (RFC 9580, sections 5.6 and 9.4).
const (
	tagCompressed = 8
	algorithmZIP  = 1
	algorithmZLIB = 2
	algorithmBZ2  = 3
)

// unpack returns the packets of a message, unpacked when they are compressed as a whole, as gpg does. The compressed data is read here and
// not by the library, which does not see what lies behind their end inside the packet: anyone could make new signatures out of one.
func unpack(raw []byte) ([]byte, error) {
	if len(raw) == 0 || raw[0]&0x80 == 0 {
		return nil, notSigned("no binary packets")
	}
	r := bytes.NewReader(raw)
	first, err := packet.NewOpaqueReader(r).Next()
	if err != nil {
		return nil, notSigned("no packets")
	}
	if first.Tag != tagCompressed {
		if len(raw) > maxUnpacked {
			return nil, notSigned("it has too many bytes")
		}
		return raw, nil
	}
	if r.Len() != 0 || len(first.Contents) == 0 {
		return nil, notSigned("a compressed packet that is empty or not alone")
	}
	compressed := bytes.NewReader(first.Contents[1:]) // an io.ByteReader: nothing reads beyond the data's end
	var body io.Reader
	switch first.Contents[0] {
	case algorithmZIP:
		body = flate.NewReader(compressed)
	case algorithmZLIB:
		if body, err = zlib.NewReader(compressed); err != nil {
			return nil, notSigned("broken compressed data")
		}
	case algorithmBZ2:
		body = bzip2.NewReader(compressed)
	default:
		return nil, notSigned("an unknown compression")
	}
	message, err := io.ReadAll(io.LimitReader(body, maxUnpacked+1))
	switch {
	case err != nil || len(message) > maxUnpacked:
		return nil, notSigned("it unpacks to too much or not at all")
	case compressed.Len() != 0:
		return nil, notSigned("something behind the compressed data")
	}
	return message, nil
}
