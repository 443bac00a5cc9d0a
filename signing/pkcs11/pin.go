//go:build cgo

package pkcs11

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"syscall"

	"github.com/countersign/countersign/internal/fault"
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
	// Without waiting: opening a named pipe would wait for its writer.
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", unreadable(err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return "", unreadable(err)
	}
	where := fmt.Errorf("%s", name) // for the log: sentences are shown to who has no business with paths
	switch {
	case !info.Mode().IsRegular():
		return "", fault.Wrap(fault.Invalid, where, "The PIN file is not a regular file.")
	case tooOpen(info):
		return "", fault.Wrap(fault.Invalid, where, "The PIN file may be used by others than its owner (its mode is %04o): set its mode to 0600.", info.Mode().Perm())
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxPINFile))
	if err != nil {
		return "", unreadable(err)
	}
	line, _, _ := bytes.Cut(raw, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	if len(line) == 0 || len(raw) == maxPINFile {
		return "", fault.Wrap(fault.Invalid, where, "The PIN file has no PIN on its first line.")
	}
	return secret(line), nil
}

// tooOpen says whether others than its owner may use a file. As for key files, a group may read a file of root's: so service managers hand
// secrets over.
func tooOpen(info fs.FileInfo) bool {
	others := info.Mode().Perm() & 0o077
	stat, ok := info.Sys().(*syscall.Stat_t)
	return others != 0 && (others != 0o040 || !ok || stat.Uid != 0 || os.Geteuid() == 0)
}

func unreadable(err error) error {
	why := err
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		why = e.Err
	}
	return fault.Wrap(fault.Invalid, err, "The PIN file cannot be read: %v.", why)
}
