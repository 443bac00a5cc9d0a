package access

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"regexp"
	"time"

	"github.com/countersign/countersign/internal/pulp"
)

// APIToken is a secret with which programs log in as an account. The secret itself is not stored.
type APIToken struct {
	Token
	AccountID int64
	Parent    string // the id of the token that creates this one, which is deleted with it; empty for none
	Account   string // its name
	Name      string
	Hint      string     // the beginning of the secret
	Expires   *time.Time // nil: never
	LastUsed  *time.Time // about; nil: never
	pulp.Stamps
}

// Expired reports whether the token is not valid any more.
func (t APIToken) Expired(now time.Time) bool { return t.Expires != nil && !now.Before(*t.Expires) }

// SecretPrefix begins the secrets of API tokens, so that they are recognized in logs and in repositories of code.
const SecretPrefix = "cst_"

// hintLength is the number of bytes of a secret that its hint shows, which leaves more than 200 random bits.
const hintLength = len(SecretPrefix) + 6

var (
	secretForm     = regexp.MustCompile(`^cst_[a-z2-7]{52}$`)
	secretEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)
)

// NewSecret returns a new secret of an API token, which has 32 random bytes, and its hint.
func NewSecret() (secret, hint string) {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand
	secret = SecretPrefix + secretEncoding.EncodeToString(b[:])
	return secret, secret[:hintLength]
}

// IsSecret reports whether a text has the form of a secret.
func IsSecret(text string) bool { return secretForm.MatchString(text) }

// HashSecret returns the hash of a secret, which is stored. A plain hash suffices for a secret that cannot be guessed.
func HashSecret(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}
