package signing_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/signing/signtest"
)

// fuzzKey returns a key that is the same in all processes, which share their corpus, and a time one hour after its
// creation.
func fuzzKey(f *testing.F) (*signtest.Key, time.Time) {
	f.Helper()
	now := time.Unix(1795384279, 0)
	entity, err := openpgp.NewEntity("Test", "", "test@example.com", &packet.Config{
		Algorithm: packet.PubKeyAlgoEdDSA, Rand: rand.NewChaCha8([32]byte{}), Time: func() time.Time { return now.Add(-time.Hour) },
	})
	if err != nil {
		f.Fatal(err)
	}
	key := &signtest.Key{Entity: entity}
	key.Export(f)
	if got := key.Public.Fingerprint(); got != fuzzFingerprint {
		f.Fatalf("the key is %s, want %s", got, fuzzFingerprint)
	}
	return key, now
}

const fuzzFingerprint = "D6E2559062129A65EAD43B54CAC859BCF43665D0"

// FuzzVerify parses and verifies messages. Parse returns the same result when it is repeated, when the message is
// compressed, and in the verification. Verify accepts only messages that Parse accepts.
func FuzzVerify(f *testing.F) {
	key, now := fuzzKey(f)
	recorded, theirs := skopeo(f)
	good := key.Sign(f, claim, now)
	for _, seed := range [][]byte{
		good, recorded, compressed(f, good), withoutLength(f, good), append(bytes.Clone(good), good...), good[:len(good)-1],
		packetOf(11, []byte("b\x00\x00\x00\x00\x00{}")), packetOf(8, []byte{3, 'B', 'Z', 'h', '9'}), {0xcb, 0xe0, 'b', 0xff, 255, 255, 255, 255},
		key.SignBytes(f, []byte(goodClaim), signtest.Config{At: now, Lifetime: time.Hour}),
		key.SignBytes(f, []byte(strings.Replace(goodClaim, `{"identity"`, `{"x":1,"identity"`, 1)), signtest.Config{At: now}),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		before := bytes.Clone(raw)
		parsed, err := signing.Parse(raw)
		switch {
		case !bytes.Equal(raw, before):
			t.Fatal("Parse changes its input")
		case err != nil && !fault.Is(err, fault.Invalid) && !fault.Is(err, fault.TooLarge):
			t.Errorf("Parse = %v, want Invalid or TooLarge", err)
		}
		if again, errAgain := signing.Parse(raw); again != parsed || (err == nil) != (errAgain == nil) {
			t.Errorf("Parse = %+v, %v, and then %+v, %v", parsed, err, again, errAgain)
		}
		for _, k := range []signing.PublicKey{key.Public, theirs} {
			v, errVerify := signing.Verify(raw, k, now)
			switch {
			case errVerify == nil && err != nil:
				t.Errorf("verified as %+v, but not parsed: %v", v.Claim(), err)
			case errVerify == nil && (v.Claim() != parsed.Claim || v.KeyID() != parsed.KeyID || !v.CreatedAt().Equal(parsed.CreatedAt) || !k.Has(v.KeyID())):
				t.Errorf("verified as %+v by %s at %v, parsed as %+v", v.Claim(), v.KeyID(), v.CreatedAt(), parsed)
			case errVerify == nil && parsed.Fingerprint != "" && v.IssuerFingerprint() != parsed.Fingerprint:
				t.Errorf("verified by %s, parsed as by %s", v.IssuerFingerprint(), parsed.Fingerprint)
			case errVerify != nil && !fault.Is(errVerify, fault.Invalid) && !fault.Is(errVerify, fault.TooLarge):
				t.Errorf("Verify = %v, want Invalid or TooLarge", errVerify)
			}
		}
		if err != nil {
			return
		}
		if len(parsed.KeyID) != 16 || strings.ToUpper(parsed.KeyID) != parsed.KeyID || parsed.Fingerprint != "" && len(parsed.Fingerprint) < 32 {
			t.Errorf("by key %q, %q", parsed.KeyID, parsed.Fingerprint)
		}
		// A compressed copy has the same result.
		if first, errFirst := packet.Read(bytes.NewReader(raw)); errFirst == nil {
			if _, plain := first.(*packet.OnePassSignature); plain {
				if other, errOther := signing.Parse(compressed(t, raw)); errOther != nil || other != parsed {
					t.Errorf("parsed as %+v, and compressed as %+v, %v", parsed, other, errOther)
				}
			}
		}
	})
}

// FuzzSignedClaim signs any bytes. Verify accepts the message exactly when ParseClaim accepts the bytes, and returns
// the same claim.
func FuzzSignedClaim(f *testing.F) {
	key, now := fuzzKey(f)
	for _, seed := range []string{
		goodClaim, "", "{}", "null", goodClaim + " ", goodClaim + "{}", "\ufeff" + goodClaim, strings.ToUpper(goodClaim),
		strings.Replace(goodClaim, `"optional":{`, `"optional":{"timestamp":1e3,`, 1), strings.Replace(goodClaim, "1795384279", "0", 1),
		strings.Replace(goodClaim, "1795384279", "1795384279.5", 1), strings.Replace(goodClaim, "atomic 5", `\ud800`, 1), strings.Replace(goodClaim, "sha256:", "sha512:"+hex64, 1),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		want, err := signing.ParseClaim(payload)
		raw := key.SignBytes(t, payload, signtest.Config{At: now})
		v, errVerify := signing.Verify(raw, key.Public, now)
		if (err == nil) != (errVerify == nil) || err == nil && v.Claim() != want {
			t.Errorf("ParseClaim(%q) = %+v, %v, and Verify = %+v, %v", payload, want, err, v.Claim(), errVerify)
		}
	})
}

// FuzzParsePublicKey parses texts as public keys. The result is the same when it is repeated, and verifies only
// signatures of that key.
func FuzzParsePublicKey(f *testing.F) {
	key, now := fuzzKey(f)
	_, theirs := skopeo(f)
	good := key.Sign(f, claim, now)
	f.Add(key.Armor)
	f.Add(key.Armor + "\n" + key.Armor)
	f.Add(strings.ReplaceAll(key.Armor, "PUBLIC", "PRIVATE"))
	f.Add(strings.Replace(key.Armor, "\n\n", "\nComment: x\n\n", 1))
	f.Add("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n=AAAA\n-----END PGP PUBLIC KEY BLOCK-----\n")
	f.Fuzz(func(t *testing.T, text string) {
		k, err := signing.ParsePublicKey(text)
		if err != nil {
			if !fault.Is(err, fault.Invalid) {
				t.Errorf("ParsePublicKey = %v, want Invalid", err)
			}
			return
		}
		again, err := signing.ParsePublicKey(text)
		if err != nil || again.Fingerprint() != k.Fingerprint() || len(k.Fingerprint()) < 32 || strings.ToUpper(k.Fingerprint()) != k.Fingerprint() {
			t.Errorf("the key %q, and then %q, %v", k.Fingerprint(), again.Fingerprint(), err)
		}
		v, err := signing.Verify(good, k, now)
		if err == nil && v.IssuerFingerprint() != key.Public.Fingerprint() || k.Fingerprint() == theirs.Fingerprint() && err == nil {
			t.Errorf("the signature of %s verifies as %s's", key.Public.Fingerprint(), v.IssuerFingerprint())
		}
	})
}

// FuzzParseKeyring parses bytes as a client's key ring. The result is the same when it is repeated, and verifies only
// signatures of its keys.
func FuzzParseKeyring(f *testing.F) {
	key, now := fuzzKey(f)
	good := key.Sign(f, claim, now)
	for _, c := range hostileRings(f) {
		if len(c.raw) < 1<<16 {
			f.Add(c.raw)
		}
	}
	f.Add([]byte(key.Armor))
	f.Fuzz(func(t *testing.T, raw []byte) {
		ring, err := readKeyring(t.Context(), raw)
		_, limited := errors.AsType[*signing.NotEvaluatedError](err)
		if err != nil {
			if !limited && !fault.Is(err, fault.Invalid) {
				t.Errorf("Read = %v, want Invalid or NotEvaluatedError", err)
			}
			return
		}
		again, err := readKeyring(t.Context(), raw)
		if err != nil || len(again.Keys()) != len(ring.Keys()) {
			t.Errorf("%d keys, and then %d, %v", len(ring.Keys()), len(again.Keys()), err)
		}
		v, _, err := ring.Verify(t.Context(), good, now)
		if err == nil && v.IssuerFingerprint() != key.Public.Fingerprint() {
			t.Errorf("the signature of %s verifies as %s's", key.Public.Fingerprint(), v.IssuerFingerprint())
		}
	})
}
