// Package safefile verifies the owners and permissions of files: only root and the user of this process may read
// files with secrets and change programs that this process runs.
//
// The rules are those of StrictModes of sshd with two differences. A group of the user may have write permission,
// because container platforms give volumes such a group. A directory with the sticky bit, such as /tmp, may be
// writable by all.
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

// ErrUnsafe is wrapped by errors about files that other users can read or change.
var ErrUnsafe = errors.New("unsafe permissions")

// maxLinks is the maximum number of symbolic links in a path, as in the kernel.
const maxLinks = 40

// ReadSecret returns the content of a regular file, of at most limit bytes, that only its owner can access. For a
// process that is not root, a file of root may also be readable by its group.
//
// ReadSecret verifies the file that it opened, after symbolic links. It does not verify directories: somebody who
// replaces the file gains no secret. label names the file in errors. Errors are Invalid; only their cause contains
// the path.
func ReadSecret(name, label string, limit int64) ([]byte, fs.FileInfo, error) {
	// O_NONBLOCK: otherwise opening a named pipe would wait for a writer.
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, unreadable(err, label)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, unreadable(err, label)
	}
	if err := checkSecret(name, label, info); err != nil {
		return nil, nil, err
	}
	if info.Size() > limit {
		return nil, nil, fault.Wrap(fault.Invalid, errors.New(name), "The %s has more than %d bytes.", label, limit)
	}
	raw, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return nil, nil, unreadable(err, label)
	}
	return raw, info, nil
}

// CheckSecret returns the error of ReadSecret for the type and the permissions of a file, without reading it.
func CheckSecret(name, label string) error {
	info, err := os.Stat(name)
	if err != nil {
		return unreadable(err, label)
	}
	return checkSecret(name, label, info)
}

func checkSecret(name, label string, info fs.FileInfo) error {
	unsafe := fmt.Errorf("%w: %s", ErrUnsafe, name) // for the log only: users see the message, without the path
	switch {
	case !info.Mode().IsRegular():
		return fault.Wrap(fault.Invalid, errors.New(name), "The %s is not a regular file.", label)
	case tooOpen(info):
		return fault.Wrap(fault.Invalid, unsafe, "The %s is accessible to users other than its owner (its mode is %04o): set its mode to 0600.",
			label, info.Mode().Perm())
	}
	return nil
}

// CheckProgram returns an error if users other than root and the user of this process could change or replace a
// program. The error is Invalid and contains the path and the remedy.
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
	return fault.Wrap(fault.Invalid, ErrUnsafe, "The program %s is not run because other users could change it: %s %s. %s %s.",
		name, p.path, p.reason, p.remedy, p.path)
}

// problem describes a file or directory that other users can change.
type problem struct {
	path   string
	reason string // continues a sentence that begins with the path
	remedy string // ends with a command without its last argument, the path
}

// changeable returns a problem if other users can change a file or the entries of a directory, otherwise nil.
func changeable(path string, info fs.FileInfo) *problem {
	mode, group := info.Mode(), -1
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		group = int(stat.Gid)
	}
	sticky := info.IsDir() && mode&fs.ModeSticky != 0
	switch {
	case !trusted(info):
		return &problem{path, fmt.Sprintf("belongs to the user %d", owner(info)), "Change the owner to root or the user of the server: chown root"}
	case sticky:
	case mode.Perm()&0o002 != 0:
		return &problem{path, fmt.Sprintf("is writable by everybody (its mode is %04o)", mode.Perm()), "Remove the permission: chmod o-w"}
	case mode.Perm()&0o020 != 0 && !ownGroup(group):
		return &problem{path, fmt.Sprintf("is writable by the group %d (its mode is %04o)", group, mode.Perm()), "Remove the permission: chmod g-w"}
	}
	return nil
}

// replaceable returns a problem for the first directory on the path of a file in which other users can replace an
// entry, or nil. It follows symbolic links one at a time, because each can lead through other directories.
func replaceable(name string) (*problem, error) {
	path, err := filepath.Abs(name)
	if err != nil {
		return nil, err
	}
	const root = string(filepath.Separator)
	at, rest, links := root, strings.Split(path, root), 0
	inSticky := false
	for len(rest) > 0 {
		step := filepath.Join(at, rest[0]) // at contains no links, so ".." has its lexical meaning
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

// tooOpen reports whether users other than the owner can access a file. It permits read access of the group to a file
// of root: service managers pass secrets to services that way (LoadCredential of systemd, fsGroup of Kubernetes).
func tooOpen(info fs.FileInfo) bool {
	others := info.Mode().Perm() & 0o077
	return others != 0 && (others != 0o040 || owner(info) != 0 || os.Geteuid() == 0)
}

// owner returns the user id of the owner, or -1 if it is unknown.
func owner(info fs.FileInfo) int {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(stat.Uid)
	}
	return -1
}

// trusted reports whether root or the user of this process owns a file.
func trusted(info fs.FileInfo) bool {
	uid := owner(info)
	return uid == 0 || uid == os.Geteuid()
}

// ownGroup reports whether a group is that of root or one of this process.
func ownGroup(gid int) bool {
	if gid == 0 || gid == os.Getegid() {
		return true
	}
	groups, err := os.Getgroups()
	return err == nil && slices.Contains(groups, gid)
}

// unreadable returns an Invalid error whose message contains the reason of err without the path.
func unreadable(err error, label string) error {
	reason := err
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		reason = e.Err
	}
	return fault.Wrap(fault.Invalid, err, "The %s cannot be read: %v.", label, reason)
}
