package openpgp

import (
	"bytes"
	"io/fs"
	"log/slog"

	"github.com/countersign/countersign/internal/safefile"
)

// Bounds of what is read.
const (
	maxKeyFile        = 1 << 20 // bytes; a key may carry many names and other people's signatures
	maxPassphraseFile = 4 << 10 // bytes
)

// passphrase is a text that does not print itself.
type passphrase []byte

// String hides the passphrase.
func (passphrase) String() string { return "***" }

// GoString hides the passphrase.
func (passphrase) GoString() string { return "***" }

// LogValue hides the passphrase.
func (passphrase) LogValue() slog.Value { return slog.StringValue("***") }

// MarshalText hides the passphrase.
func (passphrase) MarshalText() ([]byte, error) { return []byte("***"), nil }

// readPassphrase returns a file's first line, as gpg's --passphrase-file does.
func readPassphrase(name string) (passphrase, fs.FileInfo, error) {
	raw, info, err := safefile.ReadSecret(name, "passphrase file", maxPassphraseFile)
	line, _, _ := bytes.Cut(raw, []byte("\n"))
	return bytes.TrimSuffix(line, []byte("\r")), info, err
}
