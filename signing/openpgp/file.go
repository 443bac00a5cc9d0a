package openpgp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"syscall"

	"github.com/countersign/countersign/internal/fault"
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
	raw, info, err := readSecret(name, "passphrase file", maxPassphraseFile)
	line, _, _ := bytes.Cut(raw, []byte("\n"))
	return bytes.TrimSuffix(line, []byte("\r")), info, err
}

// readSecret returns the bytes of a file that only its owner may read. What is checked is the file that was opened, wherever symbolic
// links have led to.
func readSecret(name, what string, limit int64) ([]byte, fs.FileInfo, error) {
	// Without waiting: opening a named pipe would wait for its writer.
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, unreadable(err, what)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, unreadable(err, what)
	}
	where := fmt.Errorf("%s", name) // for the log: sentences are shown to who has no business with paths
	switch {
	case !info.Mode().IsRegular():
		return nil, nil, fault.Wrap(fault.Invalid, where, "The %s is not a regular file.", what)
	case tooOpen(info):
		return nil, nil, fault.Wrap(fault.Invalid, where, "The %s may be used by others than its owner (its mode is %04o): set its mode to 0600.", what, info.Mode().Perm())
	case info.Size() > limit:
		return nil, nil, fault.Wrap(fault.Invalid, where, "The %s has more than %d bytes.", what, limit)
	}
	raw, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return nil, nil, unreadable(err, what)
	}
	return raw, info, nil
}

// tooOpen says whether others than its owner may use a file. A service manager that hands a file of root's to a service gives it a
// group, or an access list that looks like one (systemd's LoadCredential, Kubernetes' fsGroup); reading is allowed to that group.
func tooOpen(info fs.FileInfo) bool {
	others := info.Mode().Perm() & 0o077
	stat, ok := info.Sys().(*syscall.Stat_t)
	if others == 0o040 && ok && stat.Uid == 0 && os.Geteuid() != 0 {
		return false
	}
	return others != 0
}

func unreadable(err error, what string) error {
	why := err
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		why = e.Err
	}
	return fault.Wrap(fault.Invalid, err, "The %s cannot be read: %v.", what, why)
}
