// Package safefile checks that nobody but root and the server's user can read the files with its secrets or change the programs that it runs.
//
// The rules are those of sshd's StrictModes, with two differences: a group that the server's user is in may write, since container platforms give
// volumes such a group, and a directory with the sticky bit (/tmp) may be writable by all.
package safefile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/countersign/countersign/internal/fault"
)

// ErrUnsafe is in the chain of each error that says that others may use or change a file.
var ErrUnsafe = errors.New("unsafe permissions")

// maxLinks bounds the symbolic links in a path, as the kernel does.
const maxLinks = 40

// ReadSecret returns the bytes of a regular file that only its owner may use. A group may read a file of root's when the server is not root. The file
// that was opened is checked, wherever symbolic links have led to; the directories above it are not, since a secret that others put there is of no use
// to them. what names the file in errors, which are Invalid and do not tell its path except as a cause. More than limit bytes are an error.
func ReadSecret(name, what string, limit int64) ([]byte, fs.FileInfo, error) {
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
	if err := checkSecret(name, what, info); err != nil {
		return nil, nil, err
	}
	if info.Size() > limit {
		return nil, nil, fault.Wrap(fault.Invalid, errors.New(name), "The %s has more than %d bytes.", what, limit)
	}
	raw, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return nil, nil, unreadable(err, what)
	}
	return raw, info, nil
}

// CheckSecret reports why a file is not one that ReadSecret reads; nil when it is.
func CheckSecret(name, what string) error {
	info, err := os.Stat(name)
	if err != nil {
		return unreadable(err, what)
	}
	return checkSecret(name, what, info)
}

func checkSecret(name, what string, info fs.FileInfo) error {
	unsafe := fmt.Errorf("%w: %s", ErrUnsafe, name) // for the log: sentences are shown to users who need not know paths
	switch {
	case !info.Mode().IsRegular():
		return fault.Wrap(fault.Invalid, errors.New(name), "The %s is not a regular file.", what)
	case tooOpen(info):
		return fault.Wrap(fault.Invalid, unsafe, "The %s may be used by others than its owner (its mode is %04o): set its mode to 0600.", what, info.Mode().Perm())
	}
	return nil
}

// CheckProgram reports why others than root and the server's user could change a program, or put another in its place, and what to do about it;
// nil when they could not. Its errors are Invalid and name the path, which is that of a program and no secret.
func CheckProgram(name string) error {
	info, err := os.Stat(name)
	if err != nil {
		return unreadable(err, "program "+name)
	}
	p := changeable(name, info)
	if p == nil {
		if p, err = replaceable(name); err != nil {
			return unreadable(err, "program "+name)
		}
	}
	if p == nil {
		return nil
	}
	return fault.Wrap(fault.Invalid, ErrUnsafe, "The program %s is not run, since others could change it: %s %s. %s %s.", name, p.path, p.why, p.fix, p.path)
}

// problem says which file or directory others may change.
type problem struct{ path, why, fix string }

// changeable reports why others may change a file, or the entries of a directory; nil when they may not.
func changeable(path string, info fs.FileInfo) *problem {
	mode, group := info.Mode(), -1
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		group = int(stat.Gid)
	}
	sticky := info.IsDir() && mode&fs.ModeSticky != 0
	switch {
	case !trusted(info):
		return &problem{path, fmt.Sprintf("belongs to the user %d", owner(info)), "Give it to root or to the server's user: chown root"}
	case sticky:
	case mode.Perm()&0o002 != 0:
		return &problem{path, fmt.Sprintf("is writable by everybody (its mode is %04o)", mode.Perm()), "Take that away: chmod o-w"}
	case mode.Perm()&0o020 != 0 && !ownGroup(group):
		return &problem{path, fmt.Sprintf("is writable by the group %d (its mode is %04o)", group, mode.Perm()), "Take that away: chmod g-w"}
	}
	return nil
}

// replaceable returns the first directory on the way to a file in which others may put something else; nil when there is none. It follows symbolic
// links one by one, since each may lead through other directories.
func replaceable(name string) (*problem, error) {
	path, err := filepath.Abs(name)
	if err != nil {
		return nil, err
	}
	const root = string(filepath.Separator)
	at, rest, links := root, strings.Split(path, root), 0
	inSticky := false
	for len(rest) > 0 {
		step := filepath.Join(at, rest[0]) // at has no links: ".." is what the kernel makes of it
		rest = rest[1:]
		info, err := os.Lstat(step)
		switch {
		case err != nil:
			return nil, err
		case info.Mode()&fs.ModeSymlink != 0:
			if links++; links > maxLinks {
				return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.ELOOP}
			}
			if inSticky && !trusted(info) {
				return &problem{step, fmt.Sprintf("is a link of the user %d", owner(info)), "Remove it: rm"}, nil
			}
			target, err := os.Readlink(step)
			if err != nil {
				return nil, err
			}
			if filepath.IsAbs(target) {
				at = root
			}
			rest = append(strings.Split(target, root), rest...)
		case info.IsDir():
			if p := changeable(step, info); p != nil {
				return p, nil
			}
			at, inSticky = step, info.Mode()&fs.ModeSticky != 0
		}
	}
	return nil, nil
}

// tooOpen says whether others than its owner may use a file. A service manager that hands a file of root's to a service gives it a
// group, or an access list that looks like one (systemd's LoadCredential, Kubernetes' fsGroup); reading is allowed to that group.
func tooOpen(info fs.FileInfo) bool {
	others := info.Mode().Perm() & 0o077
	return others != 0 && (others != 0o040 || owner(info) != 0 || os.Geteuid() == 0)
}

func owner(info fs.FileInfo) int {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(stat.Uid)
	}
	return -1
}

// trusted reports whether a file is root's or the server's user's.
func trusted(info fs.FileInfo) bool {
	uid := owner(info)
	return uid == 0 || uid == os.Geteuid()
}

// ownGroup reports whether a group is root's or one that the server's user is in.
func ownGroup(gid int) bool {
	if gid == 0 || gid == os.Getegid() {
		return true
	}
	groups, err := os.Getgroups()
	return err == nil && slices.Contains(groups, gid)
}

func unreadable(err error, what string) error {
	why := err
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		why = e.Err
	}
	return fault.Wrap(fault.Invalid, err, "The %s cannot be read: %v.", what, why)
}
