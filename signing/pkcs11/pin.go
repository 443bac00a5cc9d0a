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

// maxPINFile is the maximum size of a PIN file in bytes.
const maxPINFile = 4 << 10

// secret is a PIN. Its formatting methods hide it.
type secret string

// String hides the PIN.
func (secret) String() string { return "***" }

// GoString hides the PIN.
func (secret) GoString() string { return "***" }

// LogValue hides the PIN.
func (secret) LogValue() slog.Value { return slog.StringValue("***") }

// MarshalText hides the PIN.
func (secret) MarshalText() ([]byte, error) { return []byte("***"), nil }

// sum returns a hash for comparing PINs.
func (s secret) sum() [sha256.Size]byte { return sha256.Sum256([]byte(s)) }

// readPIN returns the first line of a file. The file must be a regular file that only its owner can access.
func readPIN(name string) (secret, error) {
	raw, _, err := safefile.ReadSecret(name, "PIN file", maxPINFile)
	if err != nil {
		return "", err
	}
	line, _, _ := bytes.Cut(raw, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	if len(line) == 0 {
		return "", fault.Wrap(fault.Invalid, errors.New(name), "The first line of the PIN file is empty.")
	}
	return secret(line), nil
}
