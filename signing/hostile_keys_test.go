package signing_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/signing/signtest"
)

// hostileRings returns key rings that are expensive to parse, with the reason why each is not evaluated. The reason
// is empty for a ring within the limits.
func hostileRings(t testing.TB) map[string]struct {
	raw    []byte
	reason string
} {
	dsa, dsaSmall, rsa, rsaLarge, rsaSmall := signtest.HostileDSA(8192), signtest.HostileDSA(1024), signtest.HostileRSA(2048, 0xfffffd), signtest.HostileRSA(16384, 0xfffffd), signtest.HostileRSA(900, 3)
	elGamal := signtest.KeyBody(16, big.NewInt(23), big.NewInt(5), big.NewInt(7))
	brainpool := append(binary.BigEndian.AppendUint32([]byte{4}, 1_700_000_000), 19, 9, 0x2B, 0x24, 0x03, 0x03, 0x02, 0x08, 0x01, 0x01, 0x0D, 0, 3, 4)
	names := func(n int) (all []byte) {
		for i := range n {
			all = append(all, rsa.Named(fmt.Sprint(i), 1)...)
		}
		return all
	}
	many := func(n int, one []byte) []byte { return bytes.Repeat(one, n) }
	return map[string]struct {
		raw    []byte
		reason string
	}{
		"DSA with 300 self-signatures":         {raw: dsa.Ring(dsa.Named("x", 300)), reason: "uses DSA"},
		"a small DSA key":                      {raw: dsaSmall.Ring(dsaSmall.Named("x", 1)), reason: "uses DSA"},
		"RSA of 16,384 bits":                   {raw: rsaLarge.Ring(rsaLarge.Named("x", 3)), reason: "is an RSA key of 16"},
		"RSA of 900 bits":                      {raw: rsaSmall.Ring(rsaSmall.Named("x", 1)), reason: "is an RSA key of 8"},
		"RSA with an exponent of 512 bits":     {raw: packetOf(6, signtest.KeyBody(1, new(big.Int).Lsh(big.NewInt(1), 2047), new(big.Int).Lsh(big.NewInt(1), 511))), reason: "large RSA exponent"},
		"ElGamal":                              {raw: slices.Concat(packetOf(6, elGamal), packetOf(13, []byte("x"))), reason: "uses ElGamal"},
		"brainpool":                            {raw: slices.Concat(packetOf(6, brainpool), packetOf(13, []byte("x"))), reason: "another curve"},
		"an unknown algorithm":                 {raw: packetOf(6, signtest.KeyBody(99, big.NewInt(1))), reason: "uses algorithm 99"},
		"RSA, 250 self-signatures":             {raw: rsa.Ring(rsa.Named("x", 250))},
		"RSA, 251 self-signatures":             {raw: rsa.Ring(rsa.Named("x", 251)), reason: "more than 250 self-signatures"},
		"RSA, 251 bindings of a subkey":        {raw: rsa.Ring(rsa.Named("x", 1), rsa.Subkey(signtest.HostileRSA(1100, 3).Body, 250)), reason: "more than 250 self-signatures"},
		"RSA, 100 user ids":                    {raw: rsa.Ring(names(100))},
		"RSA, 101 user ids":                    {raw: rsa.Ring(names(101)), reason: "more than 100 user ids"},
		"RSA, a user id of 2,049 bytes":        {raw: rsa.Ring(rsa.Named(strings.Repeat("x", 2049), 1)), reason: "bytes in a user id"},
		"RSA, 101 subkeys":                     {raw: rsa.Ring(rsa.Named("x", 1), many(101, rsa.Subkey(signtest.HostileRSA(1100, 3).Body, 1))), reason: "more than 100 subkeys"},
		"RSA, 200 DSA subkeys with bindings":   {raw: rsa.Ring(rsa.Named("x", 1), many(100, rsa.Subkey(dsa.Body, 2)))},
		"RSA, 2,000 signatures by another key": {raw: rsa.Ring(rsa.Named("x", 1), many(2000, dsa.Signature(0x10, signtest.HostileTime)))},
		"RSA, a million bytes of attributes":   {raw: rsa.Ring(rsa.Named("x", 1), many(1000, packetOf(17, make([]byte, 1000))))},
		"a signature of 70,000 bytes":          {raw: rsa.Ring(packetOf(13, []byte("x")), packetOf(2, append([]byte{4, 0x18}, make([]byte, 70_000)...))), reason: "bytes in a signature"},
		"101 keys":                             {raw: many(101, rsa.Ring(rsa.Named("x", 1))), reason: "more than 100 keys"},
		"5 keys of 250 self-signatures":        {raw: many(5, rsa.Ring(rsa.Named("x", 250))), reason: "more than 1000 self-signatures"},
		"10,001 packets":                       {raw: rsa.Ring(many(10_001, []byte{0xc0 | 13, 1, 'x'})), reason: "more than 10000 packets"},
		"101 armors":                           {raw: many(101, []byte("-----BEGIN PGP PUBLIC KEY BLOCK-----\n")), reason: "more than 100 armors"},
		"compressed keys":                      {raw: compressed(t, rsa.Ring(rsa.Named("x", 1))), reason: "compressed"},
		"compressed keys, 30 times":            {raw: nested(t, rsa.Ring(rsa.Named("x", 1)), 30), reason: "compressed"},
		"5 MB":                                 {raw: rsa.Ring(packetOf(17, make([]byte, 5<<20))), reason: "bytes of keys"},
	}
}

func nested(t testing.TB, message []byte, times int) []byte {
	for range times {
		message = compressed(t, message)
	}
	return message
}

// TestHostileKeysAreNotEvaluated proves that keys over a limit or of a slow algorithm are recognized before any
// self-signature is verified, and that their signatures are neither valid nor invalid. Without that, the 35 kB of the
// first case took twelve seconds.
func TestHostileKeysAreNotEvaluated(t *testing.T) {
	t.Parallel()
	payload, err := signing.EncodeClaim(claim)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range hostileRings(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ring, err := readKeyring(t.Context(), c.raw)
			if err == nil {
				first := signtest.FirstKey(t, c.raw)
				_, _, err = ring.Verify(t.Context(), first.Message(payload), time.Now())
			}
			limited, ok := errors.AsType[*signing.NotEvaluatedError](err)
			switch {
			case c.reason == "" && (ok || err == nil || len(ring.Keys()) != 1):
				t.Errorf("%d keys, %v; want one key within the limits", len(ring.Keys()), err)
			case c.reason != "" && (!ok || !strings.Contains(limited.Reason, c.reason)):
				t.Errorf("error %v, want the reason %q", err, c.reason)
			}
		})
	}
}

// TestCopyOverLimitIsNotEvaluated proves that a key is not evaluated when one copy of it exceeds a limit: that copy
// may revoke the key.
func TestCopyOverLimitIsNotEvaluated(t *testing.T) {
	t.Parallel()
	key := signtest.HostileRSA(2048, 65537)
	payload, err := signing.EncodeClaim(claim)
	if err != nil {
		t.Fatal(err)
	}
	good := key.Ring(key.Named("x", 1))
	for name, rings := range map[string][][]byte{
		"alone": {good}, "before": {good, key.Ring(key.Named("x", 251))}, "after": {key.Ring(key.Named("x", 251)), good},
	} {
		ring, err := readKeyring(t.Context(), rings...)
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = ring.Verify(t.Context(), key.Message(payload), signtest.HostileTime)
		if _, limited := errors.AsType[*signing.NotEvaluatedError](err); limited != (name != "alone") || name == "alone" && err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// countdown is a context that ends after a number of calls of Err.
type countdown struct {
	context.Context
	left atomic.Int64
}

func (c *countdown) Err() error {
	if c.left.Add(-1) < 0 {
		return context.Canceled
	}
	return nil
}

// TestReadStopsWhenContextEnds proves that Read stops when the context ends, and verifies one more self-signature at
// most.
func TestReadStopsWhenContextEnds(t *testing.T) {
	t.Parallel()
	key := signtest.HostileRSA(2048, 65537)
	raw := key.Ring(key.Named("x", 250))
	for calls := int64(0); ; calls += 97 {
		ctx := &countdown{Context: t.Context()}
		ctx.left.Store(calls)
		ring, err := readKeyring(ctx, raw)
		left := ctx.left.Load()
		if err == nil && calls > 250 && len(ring.Keys()) == 1 && left >= 0 {
			break // Read ended before the context
		}
		if err == nil || left < -3 {
			t.Fatalf("after %d calls of Err: Read = %v, with %d calls more", calls, err, -left)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("client disconnected")
	cancel(cause)
	if _, err := readKeyring(ctx, raw); !errors.Is(err, cause) {
		t.Errorf("Read = %v, want the cause", err)
	}
	if _, err := signing.VerifyForeign(ctx, raw, signing.PublicKey{}, time.Now()); !errors.Is(err, cause) {
		t.Errorf("VerifyForeign = %v, want the cause", err)
	}
	if _, _, err := (signing.Keyring{}).Verify(ctx, raw, time.Now()); !errors.Is(err, cause) {
		t.Errorf("Verify = %v, want the cause", err)
	}
}

// TestServiceKeysHaveLimits proves that the same limits apply to keys of services, which may use DSA and any curve.
func TestServiceKeysHaveLimits(t *testing.T) {
	t.Parallel()
	for name, c := range hostileRings(t) {
		var text bytes.Buffer
		w, err := armor.Encode(&text, openpgp.PublicKeyType, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write(c.raw)
		_ = w.Close()
		_, err = signing.ParsePublicKey(text.String())
		if c.reason == "" && err != nil || c.reason != "" && !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// readKeyring scans and reads key blobs, as package policy does.
func readKeyring(ctx context.Context, blobs ...[]byte) (signing.Keyring, error) {
	scanned, err := signing.ScanKeyring(blobs...)
	if err != nil {
		return signing.Keyring{}, err
	}
	return scanned.Read(ctx)
}
