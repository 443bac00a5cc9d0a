package events

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
	"time"
)

// Headers of a delivery (Standard Webhooks).
const (
	IDHeader        = "webhook-id"
	TimestampHeader = "webhook-timestamp"
	SignatureHeader = "webhook-signature"
)

// secretPrefix begins a secret; the key in base64 follows.
const secretPrefix = "whsec_"

// Sizes of keys in bytes.
const (
	newKey = 32
	minKey = 24
	maxKey = 64
)

var errSecret = errors.New("the secret is not whsec_ followed by 24 to 64 bytes in base64")

// NewSecret returns a random secret.
func NewSecret() string {
	key := make([]byte, newKey)
	_, _ = rand.Read(key) // it never fails
	return secretPrefix + base64.StdEncoding.EncodeToString(key)
}

// ValidSecret reports whether a secret has the form of Standard Webhooks: whsec_ and 24 to 64 bytes in base64.
func ValidSecret(secret string) bool {
	_, err := keyOf(secret)
	return err == nil
}

func keyOf(secret string) ([]byte, error) {
	text, ok := strings.CutPrefix(secret, secretPrefix)
	if !ok {
		return nil, errSecret
	}
	key, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(key) < minKey || len(key) > maxKey {
		return nil, errSecret
	}
	return key, nil
}

// Timestamp returns a time in the form of TimestampHeader.
func Timestamp(at time.Time) string { return strconv.FormatInt(at.Unix(), 10) }

// Sign returns the value of SignatureHeader: a signature of a body by each of the secrets.
func Sign(id string, at time.Time, body []byte, secrets ...string) (string, error) {
	signatures := make([]string, len(secrets))
	for i, secret := range secrets {
		key, err := keyOf(secret)
		if err != nil {
			return "", err
		}
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(id + "." + Timestamp(at) + "."))
		mac.Write(body)
		signatures[i] = "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	}
	return strings.Join(signatures, " "), nil
}
