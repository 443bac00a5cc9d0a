package signing

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// Limits of keys from outside. They apply to the packet headers, before the library parses a key: parsing verifies the
// self-signatures, and the format limits neither their number nor their cost.
const (
	maxRingSize       = 4 << 20 // bytes
	maxArmors         = 100     // of a blob
	maxPackets        = 10_000  // of a key ring
	maxKeys           = 100     // primary keys of a key ring
	maxRingSignatures = 1000    // self-signatures of a key ring
	maxSelfSignatures = 250     // of a key
	maxUserIDs        = 100     // of a key
	maxSubkeys        = 100     // of a key
	maxUserID         = 2048    // bytes, as in GnuPG; each self-signature hashes them
	maxSignature      = 64 << 10
	maxKeyPacket      = 8 << 10 // bytes of a public key packet
)

// NotEvaluatedError reports that this program does not verify signatures with a key or a key ring, although clients
// might: it exceeds a limit or uses an unsupported algorithm.
type NotEvaluatedError struct {
	Reason string // a clause, for example "the key ... is too long"
}

// Error returns the reason.
func (e *NotEvaluatedError) Error() string { return "not evaluated: " + e.Reason }

func tooMany(n int, things string) error {
	return &NotEvaluatedError{fmt.Sprintf("there are more than %d %s", n, things)}
}

// ScannedKeyring is a key ring whose packets were counted and divided into keys. No key was parsed.
type ScannedKeyring struct {
	blobs       [][]keyBlock
	unevaluated map[uint64]string // reasons by key id
	trusted     bool              // the operator chose the keys
	packets     int
	keys        int
	signatures  int
}

// keyBlock is a primary key with its user ids, signatures and subkeys.
type keyBlock struct {
	packets []byte
	reason  string // why the key is not evaluated; empty when it is evaluated
	secret  bool   // the blob has secret parts of the key; packets does not contain them
}

// ScanKeyring divides blobs, each binary or ASCII armor, into keys. It removes the packets that are not needed: user
// attributes, signatures by other keys, secret parts, and keys that are not evaluated, whose ids it records.
//
// The error is a NotEvaluatedError when the blobs exceed the limits of a key ring. Another error means that a blob
// has no keys.
func ScanKeyring(blobs ...[]byte) (*ScannedKeyring, error) { return scanKeyring(false, blobs...) }

func scanKeyring(trusted bool, blobs ...[]byte) (*ScannedKeyring, error) {
	s := &ScannedKeyring{unevaluated: map[uint64]string{}, trusted: trusted}
	size := 0
	for _, blob := range blobs {
		if size += len(blob); size > maxRingSize {
			return nil, tooMany(maxRingSize, "bytes of keys")
		}
		blocks, err := s.scanBlob(blob)
		if _, limited := errors.AsType[*NotEvaluatedError](err); limited {
			return nil, err
		}
		if len(blocks) == 0 {
			return nil, noKeys(err)
		}
		s.blobs = append(s.blobs, blocks)
	}
	return s, nil
}

// Len returns the number of primary keys, including those that are not evaluated.
func (s *ScannedKeyring) Len() int { return s.keys }

const armorBegin = "-----BEGIN PGP "

func (s *ScannedKeyring) scanBlob(blob []byte) ([]keyBlock, error) {
	if len(blob) > 0 && blob[0]&0x80 != 0 {
		return s.scan(blob)
	}
	if bytes.Count(blob, []byte(armorBegin)) > maxArmors {
		return nil, tooMany(maxArmors, "armors in one file")
	}
	var all []keyBlock
	var last error
	for i, text := range strings.Split(string(blob), armorBegin) {
		if i == 0 {
			continue
		}
		raw, err := unarmor(armorBegin + text)
		if err == nil {
			var blocks []keyBlock
			blocks, err = s.scan(raw)
			all = append(all, blocks...)
		}
		if _, limited := errors.AsType[*NotEvaluatedError](err); limited {
			return nil, err
		}
		if err != nil {
			last = err
		}
	}
	return all, last
}

// unarmor returns the packets of the first armor in a text. The armor must contain a key.
func unarmor(text string) ([]byte, error) {
	block, err := armor.Decode(strings.NewReader(text))
	if err != nil {
		return nil, err
	}
	if block.Type != openpgp.PublicKeyType && block.Type != openpgp.PrivateKeyType {
		return nil, errors.New("the armor does not contain a key")
	}
	return io.ReadAll(block.Body)
}

// Tags of the packets in keys (RFC 9580, section 5).
const (
	tagSignature    = 2
	tagSecretKey    = 5
	tagPublicKey    = 6
	tagSecretSubkey = 7
	tagUserID       = 13
	tagPublicSubkey = 14
	tagAttribute    = 17
)

// scan divides packets into keys.
func (s *ScannedKeyring) scan(raw []byte) ([]keyBlock, error) {
	var blocks []keyBlock
	var current *keyScanner
	finish := func() {
		if current != nil {
			blocks = append(blocks, current.finish(s))
		}
	}
	packets := packet.NewOpaqueReader(bytes.NewReader(raw))
	for {
		p, err := packets.Next()
		if errors.Is(err, io.EOF) {
			finish()
			return blocks, nil
		}
		if err != nil {
			return nil, err
		}
		if s.packets++; s.packets > maxPackets {
			return nil, tooMany(maxPackets, "packets in the keys")
		}
		switch p.Tag {
		case tagCompressed:
			return nil, &NotEvaluatedError{"the keys are compressed"}
		case tagPublicKey, tagSecretKey:
			finish()
			if s.keys++; s.keys > maxKeys {
				return nil, tooMany(maxKeys, "keys")
			}
			current = scanKey(p, s.trusted)
		default:
			if current != nil {
				current.add(p)
			}
		}
		if current != nil && s.signatures+current.signatures > maxRingSignatures {
			return nil, tooMany(maxRingSignatures, "self-signatures in the keys")
		}
	}
}

// owner is the kind of packet that a signature belongs to.
type owner int

const (
	ownerKey owner = iota
	ownerUserID
	ownerSubkey
	ownerDropped // a removed subkey or user attribute
)

// keyScanner collects the packets of one key.
type keyScanner struct {
	keyBlock
	trusted          bool // the operator chose the key
	primary          *packet.PublicKey
	head, rest       []byte // packets: the primary key with its direct signatures; all others
	owner            owner
	ids              []uint64          // of the primary key and the subkeys
	dropped          map[uint64]string // reasons by the ids of subkeys
	userIDs, subkeys int
	signatures       int
}

func scanKey(p *packet.OpaquePacket, trusted bool) *keyScanner {
	key := parseKeyPacket(p.Contents, trusted)
	k := &keyScanner{
		trusted: trusted, keyBlock: keyBlock{reason: key.reason, secret: p.Tag == tagSecretKey},
		ids: []uint64{key.id}, dropped: map[uint64]string{},
	}
	if k.reason == "" && len(key.body) > maxKeyPacket {
		k.reason = "is too long"
	}
	if k.reason == "" {
		k.head = appendPacket(nil, tagPublicKey, key.body)
		if read, err := packet.Read(bytes.NewReader(k.head)); err == nil {
			k.primary, _ = read.(*packet.PublicKey)
		}
	}
	return k
}

// appendPacket appends a packet with a new header.
func appendPacket(to []byte, tag byte, body []byte) []byte {
	return append(binary.BigEndian.AppendUint32(append(to, 0xc0|tag, 255), uint32(len(body))), body...)
}

// limit marks the key as not evaluated when n exceeds the limit most.
func (k *keyScanner) limit(n, most int, things string) {
	if n > most && k.reason == "" {
		k.reason = fmt.Sprintf("has more than %d %s", most, things)
	}
}

func (k *keyScanner) add(p *packet.OpaquePacket) {
	switch p.Tag {
	case tagPublicSubkey, tagSecretSubkey:
		k.addSubkey(p)
	case tagUserID:
		k.userIDs++
		k.limit(k.userIDs, maxUserIDs, "user ids")
		k.limit(len(p.Contents), maxUserID, "bytes in a user id")
		k.owner = ownerUserID
		k.keep(p.Tag, p.Contents)
	case tagAttribute:
		k.owner = ownerDropped
	case tagSignature:
		k.addSignature(p.Contents)
	}
}

func (k *keyScanner) keep(tag byte, body []byte) {
	if k.reason == "" {
		k.rest = appendPacket(k.rest, tag, body)
	}
}

func (k *keyScanner) addSubkey(p *packet.OpaquePacket) {
	sub := parseKeyPacket(p.Contents, k.trusted)
	k.secret = k.secret || p.Tag == tagSecretSubkey
	k.subkeys++
	k.limit(k.subkeys, maxSubkeys, "subkeys")
	k.ids = append(k.ids, sub.id)
	if sub.reason == "" && len(sub.body) > maxKeyPacket {
		sub.reason = "is too long"
	}
	if sub.reason != "" {
		k.dropped[sub.id] = sub.reason
		k.owner = ownerDropped
		return
	}
	k.owner = ownerSubkey
	k.keep(tagPublicSubkey, sub.body)
}

// Types of signatures in a key (RFC 9580, section 5.2.1).
const (
	typeFirstCertification = 0x10
	typeLastCertification  = 0x13
	typeDirect             = 0x1f
	typeKeyRevocation      = 0x20
	typeCertRevocation     = 0x30
)

// addSignature keeps a signature that the library verifies. It removes signatures of other keys, and those of removed
// packets unless they concern the primary key.
func (k *keyScanner) addSignature(body []byte) {
	if k.reason != "" || len(body) < 2 || body[0] < 4 {
		return
	}
	kind := body[1]
	if k.owner == ownerDropped && kind != typeDirect && kind != typeKeyRevocation || k.owner == ownerUserID && k.foreign(kind, body) {
		return
	}
	k.signatures++
	k.limit(k.signatures, maxSelfSignatures, "self-signatures")
	k.limit(len(body), maxSignature, "bytes in a signature")
	if k.owner == ownerDropped {
		k.head = appendPacket(k.head, tagSignature, body)
		return
	}
	k.keep(tagSignature, body)
}

// foreign reports whether another key made a certification of a user id.
func (k *keyScanner) foreign(kind byte, body []byte) bool {
	if (kind < typeFirstCertification || kind > typeLastCertification) && kind != typeCertRevocation || k.primary == nil {
		return false
	}
	p, err := packet.Read(bytes.NewReader(appendPacket(nil, tagSignature, body)))
	if err != nil {
		return false
	}
	sig, ok := p.(*packet.Signature)
	return ok && !sig.CheckKeyIdOrFingerprint(k.primary)
}

// finish returns the key, and records in the key ring the ids that are not evaluated.
func (k *keyScanner) finish(s *ScannedKeyring) keyBlock {
	s.signatures += k.signatures
	for _, id := range k.ids {
		if k.reason != "" {
			s.unevaluated[id] = k.reason
		} else if reason, dropped := k.dropped[id]; dropped {
			s.unevaluated[id] = reason
		}
	}
	if k.reason == "" {
		k.packets = append(k.head, k.rest...)
	}
	return k.keyBlock
}
