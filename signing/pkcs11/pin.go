//go:build cgo

package pkcs11

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"log/slog"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/safefile"
)

// maxPINFile bounds a PIN file, in bytes.
const maxPINFile = 4 << 10

// secret is a PIN: it does not print itself.
type secret string

// String hides the PIN.
func (secret) String() string { return "***" }

// GoString hides the PIN.
func (secret) GoString() string { return "***" }

// LogValue hides the PIN.
func (secret) LogValue() slog.Value { return slog.StringValue("***") }

// MarshalText hides the PIN.
func (secret) MarshalText() ([]byte, error) { return []byte("***"), nil }

// sum tells PINs apart.
func (s secret) sum() [sha256.Size]byte { return sha256.Sum256([]byte(s)) }

// readPIN returns a file's first line. It must be a regular file that only its owner may use, as key files are.
func readPIN(name string) (secret, error) {
	raw, _, err := safefile.ReadSecret(name, "PIN file", maxPINFile)
	if err != nil {
		return "", err
	}
	line, _, _ := bytes.Cut(raw, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	if len(line) == 0 {
		return "", fault.Wrap(fault.Invalid, errors.New(name), "The PIN file has no PIN on its first line.")
	}
	return secret(line), nil
}
