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

// hostileRings returns key rings that make a reader work or allocate, and the reason why each is not evaluated; empty when it is within the bounds.
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
		"DSA with 300 self-signatures":         {dsa.Ring(dsa.Named("x", 300)), "uses DSA"},
		"a small DSA key":                      {dsaSmall.Ring(dsaSmall.Named("x", 1)), "uses DSA"},
		"RSA of 16,384 bits":                   {rsaLarge.Ring(rsaLarge.Named("x", 3)), "is an RSA key of 16"},
		"RSA of 900 bits":                      {rsaSmall.Ring(rsaSmall.Named("x", 1)), "is an RSA key of 8"},
		"RSA with an exponent of 512 bits":     {packetOf(6, signtest.KeyBody(1, new(big.Int).Lsh(big.NewInt(1), 2047), new(big.Int).Lsh(big.NewInt(1), 511))), "large RSA exponent"},
		"ElGamal":                              {slices.Concat(packetOf(6, elGamal), packetOf(13, []byte("x"))), "uses ElGamal"},
		"brainpool":                            {slices.Concat(packetOf(6, brainpool), packetOf(13, []byte("x"))), "another curve"},
		"an unknown algorithm":                 {packetOf(6, signtest.KeyBody(99, big.NewInt(1))), "uses algorithm 99"},
		"RSA, 250 self-signatures":             {rsa.Ring(rsa.Named("x", 250)), ""},
		"RSA, 251 self-signatures":             {rsa.Ring(rsa.Named("x", 251)), "more than 250 self-signatures"},
		"RSA, 251 bindings of a subkey":        {rsa.Ring(rsa.Named("x", 1), rsa.Subkey(signtest.HostileRSA(1100, 3).Body, 250)), "more than 250 self-signatures"},
		"RSA, 100 user ids":                    {rsa.Ring(names(100)), ""},
		"RSA, 101 user ids":                    {rsa.Ring(names(101)), "more than 100 user ids"},
		"RSA, a user id of 2,049 bytes":        {rsa.Ring(rsa.Named(strings.Repeat("x", 2049), 1)), "bytes in a user id"},
		"RSA, 101 subkeys":                     {rsa.Ring(rsa.Named("x", 1), many(101, rsa.Subkey(signtest.HostileRSA(1100, 3).Body, 1))), "more than 100 subkeys"},
		"RSA, 200 DSA subkeys with bindings":   {rsa.Ring(rsa.Named("x", 1), many(100, rsa.Subkey(dsa.Body, 2))), ""},
		"RSA, 2,000 signatures by another key": {rsa.Ring(rsa.Named("x", 1), many(2000, dsa.Signature(0x10, signtest.HostileTime))), ""},
		"RSA, a million bytes of attributes":   {rsa.Ring(rsa.Named("x", 1), many(1000, packetOf(17, make([]byte, 1000)))), ""},
		"a signature of 70,000 bytes":          {rsa.Ring(packetOf(13, []byte("x")), packetOf(2, append([]byte{4, 0x18}, make([]byte, 70_000)...))), "bytes in a signature"},
		"101 keys":                             {many(101, rsa.Ring(rsa.Named("x", 1))), "more than 100 keys"},
		"5 keys of 250 self-signatures":        {many(5, rsa.Ring(rsa.Named("x", 250))), "more than 1000 self-signatures"},
		"10,001 packets":                       {rsa.Ring(many(10_001, []byte{0xc0 | 13, 1, 'x'})), "more than 10000 packets"},
		"101 armors":                           {many(101, []byte("-----BEGIN PGP PUBLIC KEY BLOCK-----\n")), "more than 100 armors"},
		"compressed keys":                      {compressed(t, rsa.Ring(rsa.Named("x", 1))), "compressed"},
		"compressed keys, 30 times":            {nested(t, rsa.Ring(rsa.Named("x", 1)), 30), "compressed"},
		"5 MB":                                 {rsa.Ring(packetOf(17, make([]byte, 5<<20))), "bytes of keys"},
	}
}

func nested(t testing.TB, message []byte, times int) []byte {
	for range times {
		message = compressed(t, message)
	}
	return message
}

// TestHostileKeysAreNotEvaluated: keys and key rings over a bound, or of an algorithm that is slow to verify with, are told apart before any of their
// self-signatures is verified, and a signature by such a key is neither good nor bad. 35 kB of the first case took twelve seconds.
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
				t.Errorf("within the bounds: %d keys, %v", len(ring.Keys()), err)
			case c.reason != "" && (!ok || !strings.Contains(limited.Reason, c.reason)):
				t.Errorf("%v, want one that %s", err, c.reason)
			}
		})
	}
}

// TestACopyOverTheBoundsCounts: where one copy of a key is evaluated and another is not, the key is not: the other copy may revoke it.
func TestACopyOverTheBoundsCounts(t *testing.T) {
	t.Parallel()
	key := signtest.HostileRSA(2048, 65537)
	payload, err := signing.EncodeClaim(claim)
	if err != nil {
		t.Fatal(err)
	}
	good := key.Ring(key.Named("x", 1))
	for name, rings := range map[string][][]byte{
		"alone": {good}, "before": {good, key.Ring(key.Named("x", 251))}, "behind": {key.Ring(key.Named("x", 251)), good},
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

// countdown is a context that ends after its Err was called so many times.
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

// TestReadingKeysStops: a key ring within the bounds is not read to its end once nobody waits for it, and no more than one self-signature is
// verified in between.
func TestReadingKeysStops(t *testing.T) {
	t.Parallel()
	key := signtest.HostileRSA(2048, 65537)
	raw := key.Ring(key.Named("x", 250))
	for calls := int64(0); ; calls += 97 {
		ctx := &countdown{Context: t.Context()}
		ctx.left.Store(calls)
		ring, err := readKeyring(ctx, raw)
		left := ctx.left.Load()
		if err == nil && calls > 250 && len(ring.Keys()) == 1 && left >= 0 {
			break // the context outlived it
		}
		if err == nil || left < -3 {
			t.Fatalf("after %d checks: %v, and %d more", calls, err, -left)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("nobody waits")
	cancel(gone)
	if _, err := readKeyring(ctx, raw); !errors.Is(err, gone) {
		t.Errorf("reading the key ring = %v, want the cause", err)
	}
	if _, err := signing.VerifyForeign(ctx, raw, signing.PublicKey{}, time.Now()); !errors.Is(err, gone) {
		t.Errorf("VerifyForeign = %v, want the cause", err)
	}
	if _, _, err := (signing.Keyring{}).Verify(ctx, raw, time.Now()); !errors.Is(err, gone) {
		t.Errorf("Verify = %v, want the cause", err)
	}
}

// TestKeysOfServicesHaveBounds: a key that the operator gives may use DSA or any curve, within the same counts.
func TestKeysOfServicesHaveBounds(t *testing.T) {
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

// readKeyring scans and reads key blobs, as a policy does.
func readKeyring(ctx context.Context, blobs ...[]byte) (signing.Keyring, error) {
	scanned, err := signing.ScanKeyring(blobs...)
	if err != nil {
		return signing.Keyring{}, err
	}
	return scanned.Read(ctx)
}
