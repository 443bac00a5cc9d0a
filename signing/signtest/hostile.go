package signtest

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // the fingerprints of version 4 keys
	"crypto/sha256"
	"encoding/binary"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// Packet returns a packet with a header of the new format.
func Packet(tag byte, body []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0xc0 | tag, 255}, uint32(len(body))), body...)
}

// HostileKey is a key that no program makes. Each of its self-signatures is valid and as expensive as the format
// permits.
type HostileKey struct {
	Body []byte // of the public key packet
	algo byte
	sign func(digest []byte) []byte // the MPIs of a signature
}

func mpi(n *big.Int) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(n.BitLen())), n.Bytes()...)
}

// KeyBody returns the body of a version 4 public key packet.
func KeyBody(algo byte, numbers ...*big.Int) []byte {
	b := append(binary.BigEndian.AppendUint32([]byte{4}, 1_700_000_000), algo)
	for _, n := range numbers {
		b = append(b, mpi(n)...)
	}
	return b
}

// HostileDSA returns a DSA key whose signatures anyone can make: its generator is -1, which has order two.
func HostileDSA(bits uint) HostileKey {
	one := big.NewInt(1)
	p := new(big.Int).Sub(new(big.Int).Lsh(one, bits), one)
	q := new(big.Int).Sub(new(big.Int).Lsh(one, 512), big.NewInt(569)) // a prime
	return HostileKey{KeyBody(17, p, q, new(big.Int).Sub(p, one), one), 17, func(digest []byte) []byte {
		u1 := new(big.Int).Sub(q, one) // even
		s := new(big.Int).ModInverse(u1, q)
		s.Mul(s, new(big.Int).SetBytes(digest)).Mod(s, q)
		return append(mpi(one), mpi(s)...)
	}}
}

// HostileRSA returns an RSA key of about the given number of bits. Its modulus is a product of small primes, so that
// it is made quickly.
func HostileRSA(bits int, e int64) HostileKey {
	r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the key must be the same each time
	n, phi, one, exponent := big.NewInt(1), big.NewInt(1), big.NewInt(1), big.NewInt(e)
	for n.BitLen() < bits-60 {
		p := new(big.Int).SetUint64(r.Uint64() | 1)
		less := new(big.Int).Sub(p, one)
		if !p.ProbablyPrime(10) || new(big.Int).GCD(nil, nil, less, exponent).Cmp(one) != 0 {
			continue
		}
		n.Mul(n, p)
		phi.Mul(phi, less)
	}
	d := new(big.Int).ModInverse(exponent, phi)
	size := (n.BitLen() + 7) / 8
	return HostileKey{KeyBody(1, n, exponent), 1, func(digest []byte) []byte {
		prefix := []byte{0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20}
		em := slices.Concat([]byte{0, 1}, slices.Repeat([]byte{0xff}, size-3-len(prefix)-len(digest)), []byte{0}, prefix, digest)
		return mpi(new(big.Int).Exp(new(big.Int).SetBytes(em), d, n))
	}}
}

func (k HostileKey) fingerprint() []byte {
	sum := sha1.Sum(slices.Concat([]byte{0x99}, binary.BigEndian.AppendUint16(nil, uint16(len(k.Body))), k.Body)) //nolint:gosec // as above
	return sum[:]
}

// Signature returns a signature packet of a type over the given bytes.
func (k HostileKey) Signature(kind byte, at time.Time, over ...[]byte) []byte {
	hashed := binary.BigEndian.AppendUint32([]byte{5, 2}, uint32(at.Unix()))
	if kind == 0x18 {
		hashed = append(hashed, 2, 27, 12) // flags: encrypt
	}
	head := append([]byte{4, kind, k.algo, 8}, binary.BigEndian.AppendUint16(nil, uint16(len(hashed)))...)
	head = append(head, hashed...)
	trailer := binary.BigEndian.AppendUint32([]byte{4, 0xff}, uint32(len(head)))
	sum := sha256.Sum256(slices.Concat(slices.Concat(over...), head, trailer))
	unhashed := append([]byte{9, 16}, k.fingerprint()[12:]...)
	body := slices.Concat(head, binary.BigEndian.AppendUint16(nil, uint16(len(unhashed))), unhashed, sum[:2], k.sign(sum[:]))
	return Packet(2, body)
}

func framed(tag byte, body []byte) []byte {
	return append(binary.BigEndian.AppendUint16([]byte{tag}, uint16(len(body))), body...)
}

// HostileTime is the time of the signatures of hostile keys.
var HostileTime = time.Unix(1_795_384_279, 0)

// Named returns a user id with a number of self-signatures.
func (k HostileKey) Named(id string, signatures int) []byte {
	over := append(binary.BigEndian.AppendUint32([]byte{0xb4}, uint32(len(id))), id...)
	one := k.Signature(0x13, HostileTime, framed(0x99, k.Body), over)
	return append(Packet(13, []byte(id)), slices.Concat(slices.Repeat([][]byte{one}, signatures)...)...)
}

// Subkey returns a subkey with a number of binding signatures.
func (k HostileKey) Subkey(body []byte, bindings int) []byte {
	one := k.Signature(0x18, HostileTime, framed(0x99, k.Body), framed(0x99, body))
	return append(Packet(14, body), slices.Concat(slices.Repeat([][]byte{one}, bindings)...)...)
}

// Ring returns the key with the given parts.
func (k HostileKey) Ring(parts ...[]byte) []byte {
	return append(Packet(6, k.Body), slices.Concat(parts...)...)
}

// FirstKey returns the first key of a key ring. It cannot sign.
func FirstKey(t testing.TB, raw []byte) HostileKey {
	t.Helper()
	p, err := packet.NewOpaqueReader(bytes.NewReader(raw)).Next()
	if err != nil {
		t.Fatal(err)
	}
	return HostileKey{p.Contents, 1, func([]byte) []byte { return mpi(big.NewInt(7)) }}
}

// Message returns a message signed with the key.
func (k HostileKey) Message(payload []byte) []byte {
	onePass := append([]byte{3, 0, 8, k.algo}, append(k.fingerprint()[12:], 1)...)
	literal := append([]byte{'b', 0, 0, 0, 0, 0}, payload...)
	return slices.Concat(Packet(4, onePass), Packet(11, literal), k.Signature(0, HostileTime, payload))
}
