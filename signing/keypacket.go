package signing

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // fingerprints of version 4 keys are SHA-1 hashes
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
)

// Public-key algorithms (RFC 9580, section 9.1): those whose keys are evaluated, and others that GnuPG supports.
const (
	algorithmRSA            = 1
	algorithmRSAEncryptOnly = 2
	algorithmRSASignOnly    = 3
	algorithmElGamal        = 16
	algorithmDSA            = 17
	algorithmECDH           = 18
	algorithmECDSA          = 19
	algorithmEdDSA          = 22
	algorithmEd25519        = 27
	algorithmEd448          = 28
)

// Limits of the numbers in a key. With them, the verification of a signature takes a few milliseconds.
const (
	minRSABits     = 1024
	maxRSABits     = 8192
	maxRSAExponent = 3 // bytes; the library has the same limit
	maxDSABits     = 4096
	maxDSAGroup    = 256 // bits; the cost of a verification grows with it
)

// layouts describes the fields of public keys by algorithm: m is a multiprecision integer, o a field with a preceding
// length byte.
var layouts = map[byte]string{
	algorithmRSA: "mm", algorithmRSAEncryptOnly: "mm", algorithmRSASignOnly: "mm", algorithmElGamal: "mmm", algorithmDSA: "mmmm",
	algorithmECDH: "omo", algorithmECDSA: "om", algorithmEdDSA: "om",
}

// fixedLengths has the length in bytes of public keys without fields, by algorithm.
var fixedLengths = map[byte]int{algorithmEd25519: 32, algorithmEd448: 57}

var algorithmNames = map[byte]string{algorithmElGamal: "ElGamal", algorithmDSA: "DSA", algorithmECDH: "ECDH"}

// curves has the object identifiers of the curves that are evaluated: the NIST curves, Ed25519 and Ed448. The
// library's code for other curves is a hundred times slower. Keys of signing services may use any curve, since the
// operator chose them.
var curves = [][]byte{
	{0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07}, {0x2B, 0x81, 0x04, 0x00, 0x22}, {0x2B, 0x81, 0x04, 0x00, 0x23},
	{0x2B, 0x06, 0x01, 0x04, 0x01, 0xDA, 0x47, 0x0F, 0x01}, {0x2B, 0x65, 0x71},
}

// keyPacket is the public part of a key packet. Only its structure was parsed.
type keyPacket struct {
	body   []byte
	id     uint64 // 0 when the packet's version is unknown
	reason string // why the key is not evaluated, as a predicate ("uses DSA"); empty when it is evaluated
}

// parseKeyPacket parses the structure of a public or secret key packet without computing with its numbers, and
// removes the secret part. Trusted keys may be DSA keys and use any curve.
func parseKeyPacket(body []byte, trusted bool) keyPacket {
	head := 6
	if len(body) > 0 && body[0] >= 5 {
		head = 10
	}
	if len(body) < head {
		return keyPacket{body: body, reason: "is malformed"}
	}
	algorithm := body[5]
	fields, n, complete := splitFields(algorithm, body[head:])
	k := keyPacket{body: body}
	if complete {
		k.body = body[:head+n]
	}
	k.id = keyPacketID(k.body)
	name, known := algorithmNames[algorithm]
	known = known && (!trusted || algorithm != algorithmDSA)
	switch {
	case body[0] < 4 || body[0] > 6:
		k.reason = fmt.Sprintf("is of version %d", body[0])
	case known:
		k.reason = "uses " + name
	case layouts[algorithm] == "" && fixedLengths[algorithm] == 0:
		k.reason = fmt.Sprintf("uses algorithm %d", algorithm)
	case !complete:
		k.reason = "is malformed"
	default:
		k.reason = unsuitable(algorithm, fields, trusted)
	}
	return k
}

// splitFields returns the fields of a public key without their lengths, and the number of bytes that they occupy.
// complete is false when the data is too short or the algorithm is unknown.
func splitFields(algorithm byte, material []byte) (fields [][]byte, n int, complete bool) {
	if size := fixedLengths[algorithm]; size > 0 {
		return nil, size, len(material) >= size
	}
	for _, form := range layouts[algorithm] {
		var size int
		rest := material[n:]
		switch {
		case form == 'm' && len(rest) >= 2:
			size = (int(binary.BigEndian.Uint16(rest)) + 7) / 8
			n += 2
		case form == 'o' && len(rest) >= 1:
			size = int(rest[0])
			n++
		default:
			return nil, 0, false
		}
		if len(material) < n+size {
			return nil, 0, false
		}
		fields = append(fields, material[n:n+size])
		n += size
	}
	return fields, n, len(fields) > 0
}

// unsuitable returns why a key of a supported algorithm is not evaluated, or an empty string.
func unsuitable(algorithm byte, fields [][]byte, trusted bool) string {
	switch layouts[algorithm] {
	case "mm":
		if size := bitLength(fields[0]); size < minRSABits || size > maxRSABits {
			return fmt.Sprintf("is an RSA key of %d bits, where %d to %d are supported", size, minRSABits, maxRSABits)
		}
		if bitLength(fields[1]) > 8*maxRSAExponent {
			return "has a large RSA exponent"
		}
	case "mmmm":
		p, q, g, y := bitLength(fields[0]), bitLength(fields[1]), bitLength(fields[2]), bitLength(fields[3])
		if max(p, g, y) > maxDSABits || q > maxDSAGroup {
			return fmt.Sprintf("is a DSA key of %d and %d bits, where %d and %d are supported", max(p, g, y), q, maxDSABits, maxDSAGroup)
		}
	case "om":
		if !trusted && !slices.ContainsFunc(curves, func(oid []byte) bool { return bytes.Equal(oid, fields[0]) }) {
			return "uses another curve than P-256, P-384, P-521, Ed25519 and Ed448"
		}
	}
	return ""
}

// bitLength returns the number of bits of a big-endian number.
func bitLength(number []byte) int {
	number = bytes.TrimLeft(number, "\x00")
	if len(number) == 0 {
		return 0
	}
	return 8*(len(number)-1) + bits.Len8(number[0])
}

// keyPacketID returns the key id of a public key packet, a part of its fingerprint (RFC 9580, section 5.5.4).
func keyPacketID(body []byte) uint64 {
	if body[0] == 4 {
		if len(body) > 0xffff {
			return 0
		}
		sum := sha1.Sum(append(binary.BigEndian.AppendUint16([]byte{0x99}, uint16(len(body))), body...)) //nolint:gosec // as above
		return binary.BigEndian.Uint64(sum[12:])
	}
	var prefix byte
	switch body[0] {
	case 5:
		prefix = 0x9a
	case 6:
		prefix = 0x9b
	default:
		return 0
	}
	sum := sha256.Sum256(append(binary.BigEndian.AppendUint32([]byte{prefix}, uint32(len(body))), body...))
	return binary.BigEndian.Uint64(sum[:])
}
