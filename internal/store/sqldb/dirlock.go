package sqldb

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/countersign/countersign/internal/fault"
)

// Lock is the exclusive use of a data directory, because one process owns a SQLite database
// (compatibility.md#one-owner-of-sqlite). The kernel releases it when the process ends.
type Lock struct{ file *os.File }

// LockDir locks a data directory for this process, and creates the directory if it is missing. The error is Conflict if another
// process has locked it.
func LockDir(dir string) (*Lock, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		_ = f.Close()
		return nil, fault.New(fault.Conflict, "Another server uses the data directory %s. Give this one its own (COUNTERSIGN_DATA).", dir)
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	return &Lock{f}, nil
}

// Release unlocks the directory.
func (l *Lock) Release() error { return l.file.Close() }
