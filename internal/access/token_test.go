package access_test

import (
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/access"
)

// FuzzIsSecret checks that only texts in the exact form of a secret are looked up as one, whatever a client sends.
func FuzzIsSecret(f *testing.F) {
	secret, hint := access.NewSecret()
	if !access.IsSecret(secret) || !strings.HasPrefix(secret, hint) {
		f.Fatalf("%s with the hint %s is no secret", secret, hint)
	}
	for _, seed := range []string{
		secret, "", access.SecretPrefix, secret + "\n", "\n" + secret, secret + "a", secret[:len(secret)-1], strings.ToUpper(secret),
		strings.Replace(secret, "cst_", "CST_", 1), secret[:55] + "1", secret[:55] + "\x00", secret[:53] + "ſk", secret + "\u2028",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		random, found := strings.CutPrefix(text, access.SecretPrefix)
		want := found && len(random) == 52 && strings.Trim(random, "abcdefghijklmnopqrstuvwxyz234567") == ""
		if got := access.IsSecret(text); got != want {
			t.Errorf("IsSecret(%q) = %t, want %t", text, got, want)
		}
		if hash := access.HashSecret(text); len(hash) != 64 || want && strings.Contains(hash, random) {
			t.Errorf("HashSecret(%q) = %q", text, hash)
		}
	})
}
