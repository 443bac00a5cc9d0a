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

// fuzzKey returns a key that is the same in every process: those that fuzz share what they find. It is made some time before the time returned.
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

// FuzzVerify reads messages as signatures and verifies them. What Parse takes says the same when it is read again, framed in another way, and verified; what Verify takes
// Parse takes; and what no key has made does not verify.
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
		said, err := signing.Parse(raw)
		switch {
		case !bytes.Equal(raw, before):
			t.Fatal("Parse changes what it reads")
		case err != nil && !fault.Is(err, fault.Invalid) && !fault.Is(err, fault.TooLarge):
			t.Errorf("Parse = %v, want Invalid or TooLarge", err)
		}
		if again, errAgain := signing.Parse(raw); again != said || (err == nil) != (errAgain == nil) {
			t.Errorf("Parse = %+v, %v, and then %+v, %v", said, err, again, errAgain)
		}
		for _, k := range []signing.PublicKey{key.Public, theirs} {
			v, errVerify := signing.Verify(raw, k, now)
			switch {
			case errVerify == nil && err != nil:
				t.Errorf("verified as %+v, but not parsed: %v", v.Claim(), err)
			case errVerify == nil && (v.Claim() != said.Claim || v.KeyID() != said.KeyID || !v.CreatedAt().Equal(said.CreatedAt) || !k.Has(v.KeyID())):
				t.Errorf("verified as %+v by %s at %v, parsed as %+v", v.Claim(), v.KeyID(), v.CreatedAt(), said)
			case errVerify == nil && said.Fingerprint != "" && v.IssuerFingerprint() != said.Fingerprint:
				t.Errorf("verified by %s, parsed as by %s", v.IssuerFingerprint(), said.Fingerprint)
			case errVerify != nil && !fault.Is(errVerify, fault.Invalid) && !fault.Is(errVerify, fault.TooLarge):
				t.Errorf("Verify = %v, want Invalid or TooLarge", errVerify)
			}
		}
		if err != nil {
			return
		}
		if len(said.KeyID) != 16 || strings.ToUpper(said.KeyID) != said.KeyID || said.Fingerprint != "" && len(said.Fingerprint) < 32 {
			t.Errorf("by key %q, %q", said.KeyID, said.Fingerprint)
		}
		// A message that is not compressed says the same when it is.
		if first, errFirst := packet.Read(bytes.NewReader(raw)); errFirst == nil {
			if _, plain := first.(*packet.OnePassSignature); plain {
				if other, errOther := signing.Parse(compressed(t, raw)); errOther != nil || other != said {
					t.Errorf("parsed as %+v, and compressed as %+v, %v", said, other, errOther)
				}
			}
		}
	})
}

// FuzzSignedClaim signs whatever bytes as a payload. A message around them is taken exactly when they are a claim, and then its claim is what was verified.
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
			t.Errorf("%q is read as %+v, %v, and signed as %+v, %v", payload, want, err, v.Claim(), errVerify)
		}
	})
}

// FuzzParsePublicKey reads texts as public keys. What is taken is one key, without a secret, which says the same of itself when it is written and read again.
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

// FuzzParseKeyring reads bytes as the key ring of a client. What is read is within the bounds, says the same when it is read again, and verifies nothing
// that its keys have not signed.
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
				t.Errorf("reading the key ring = %v, want Invalid or not evaluated", err)
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
