package openpgp

import (
	"bytes"
	"io/fs"
	"log/slog"

	"github.com/countersign/countersign/internal/safefile"
)

// Limits of files in bytes.
const (
	maxKeyFile        = 1 << 20 // a key may have many user ids and signatures of others
	maxPassphraseFile = 4 << 10
)

// passphrase is a passphrase. Its formatting methods hide it.
type passphrase []byte

// String hides the passphrase.
func (passphrase) String() string { return "***" }

// GoString hides the passphrase.
func (passphrase) GoString() string { return "***" }

// LogValue hides the passphrase.
func (passphrase) LogValue() slog.Value { return slog.StringValue("***") }

// MarshalText hides the passphrase.
func (passphrase) MarshalText() ([]byte, error) { return []byte("***"), nil }

// readPassphrase returns the first line of a file, as gpg's --passphrase-file does.
func readPassphrase(name string) (passphrase, fs.FileInfo, error) {
	raw, info, err := safefile.ReadSecret(name, "passphrase file", maxPassphraseFile)
	line, _, _ := bytes.Cut(raw, []byte("\n"))
	return bytes.TrimSuffix(line, []byte("\r")), info, err
}
