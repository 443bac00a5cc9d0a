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

// MaxSize is the maximum size of a signature in bytes (compatibility.md#signature-endpoint).
const MaxSize = 4_000_000

// maxUnpacked is the maximum size in bytes of the packets of a signature after decompression: a claim, a signature
// packet and their headers. Packets can have a million parts in each million bytes, and each verification parses them
// again.
const maxUnpacked = 256 << 10

// Signature is a parsed signature from outside. Its content is not verified.
type Signature struct {
	KeyID       string    // of the issuing key: 16 upper-case hex digits
	Fingerprint string    // of the issuing key, upper-case hex; empty when the signature does not contain it
	CreatedAt   time.Time // of the OpenPGP packet
	ExpiresAt   time.Time // zero when the signature does not expire
	Claim       Claim
}

// Digest returns the digest that identifies a signature: the sha256 of its bytes.
func Digest(raw []byte) digest.Digest { return digest.FromBytes(raw) }

// Name returns the name of a signature for clients: the manifest's digest, @, and the first 32 hex digits of the
// signature's digest (compatibility.md#signature-format).
func Name(manifest digest.Digest, raw []byte) string {
	return string(manifest) + "@" + Digest(raw).Encoded()[:32]
}

func notSigned(why string) error {
	return fault.New(fault.Invalid, "Not one OpenPGP signed message: %s.", why)
}

// Parse parses a signature from outside. It must be a binary OpenPGP message of exactly a one-pass signature packet,
// literal data with a claim, and a signature packet, optionally compressed as a whole. Additional data, and
// contradictory names of the key, are errors. The error is TooLarge over MaxSize, and Invalid otherwise.
func Parse(raw []byte) (Signature, error) {
	s, _, err := read(raw)
	return s, err
}

// message has the packets of a signature and the payload in them.
type message struct{ packets, payload []byte }

// read parses a signature and also returns its packets, so that exactly the parsed bytes are verified.
func read(raw []byte) (Signature, message, error) {
	if len(raw) > MaxSize {
		return Signature{}, message{}, fault.New(fault.TooLarge, "A signature may have at most %d bytes.", MaxSize)
	}
	packets, err := unpack(raw)
	if err != nil {
		return Signature{}, message{}, err
	}
	payload, sig, err := splitMessage(packets)
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

// issuer returns the id of the key that made a signature and, when the signature contains it, its fingerprint
// (compatibility.md#signature-format).
func issuer(sig *packet.Signature) (keyID, fingerprint string, err error) {
	fingerprint = strings.ToUpper(hex.EncodeToString(sig.IssuerFingerprint))
	switch {
	case len(fingerprint) == 40:
		keyID = fingerprint[24:]
	case len(fingerprint) >= 16:
		keyID = fingerprint[:16]
	case sig.IssuerKeyId == nil:
		return "", "", notSigned("it does not name its key")
	default:
		return idText(*sig.IssuerKeyId), "", nil
	}
	if sig.IssuerKeyId != nil && idText(*sig.IssuerKeyId) != keyID {
		return "", "", notSigned("it names two keys")
	}
	return keyID, fingerprint, nil
}

// idText formats a key id as 16 upper-case hex digits.
func idText(id uint64) string { return fmt.Sprintf("%016X", id) }

// parseID parses a key id in the format of idText.
func parseID(text string) (uint64, error) {
	id, err := strconv.ParseUint(text, 16, 64)
	if err != nil || text != idText(id) {
		return 0, notSigned("it does not name its key")
	}
	return id, nil
}

// splitMessage returns the literal data and the signature packet of a signed message. It is an error when the message
// has other packets.
func splitMessage(message []byte) ([]byte, *packet.Signature, error) {
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
		return nil, nil, notSigned("literal data that is too long or incomplete")
	}
	third, err := packet.Read(r)
	if err != nil {
		return nil, nil, notSigned("no signature")
	}
	sig, ok := third.(*packet.Signature)
	if !ok || sig.SigType != packet.SigTypeBinary || sig.Hash != onePass.Hash {
		return nil, nil, notSigned("the signature packet does not match the one-pass signature")
	}
	if keyID, _, err := issuer(sig); err != nil {
		return nil, nil, err
	} else if keyID != idText(onePass.KeyId) {
		return nil, nil, notSigned("its packets name two keys")
	}
	if r.Len() != 0 {
		return nil, nil, notSigned("data after the signature")
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

// unpack returns the packets of a message. It decompresses a message that is compressed as a whole, as gpg does. The
// library's decompression ignores data after the compressed data inside the packet, which would let anyone make new
// signatures from an existing one; unpack rejects such data.
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
	compressed := bytes.NewReader(first.Contents[1:]) // as an io.ByteReader it is not read beyond the end of the data
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
		return nil, notSigned("it cannot be decompressed to at most 256 KiB")
	case compressed.Len() != 0:
		return nil, notSigned("data after the compressed data")
	}
	return message, nil
}
