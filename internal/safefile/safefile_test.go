package safefile_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/safefile"
)

// stranger is the id of a user and of a group, neither of which is that of the test.
const stranger = 54321

// createProgram creates dir/program in a temporary directory and returns both paths.
func createProgram(t *testing.T) (dir, program string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "dir")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	program = filepath.Join(dir, "program")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir, program
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// TestCheckProgram verifies the decision for permissions of the program, of its directories and of symbolic links.
func TestCheckProgram(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change    func(t *testing.T, dir, program string) string // returns the path to check; "": program
		want      string                                         // part of the error; "": none
		needsRoot bool
	}{
		"safe":                      {change: func(*testing.T, string, string) string { return "" }},
		"writable by all":           {change: func(t *testing.T, _, program string) string { must(t, os.Chmod(program, 0o777)); return "" }, want: "chmod o-w"},
		"directory writable by all": {change: func(t *testing.T, dir, _ string) string { must(t, os.Chmod(dir, 0o777)); return "" }, want: "chmod o-w"},
		"parent directory writable by all": {change: func(t *testing.T, dir, program string) string {
			must(t, os.Chmod(filepath.Dir(dir), 0o777))
			return ""
		}, want: "chmod o-w"},
		"sticky directory": {change: func(t *testing.T, dir, _ string) string { must(t, os.Chmod(dir, 0o777|os.ModeSticky)); return "" }},
		"writable by the own group": {change: func(t *testing.T, dir, program string) string {
			must(t, os.Chown(dir, -1, os.Getegid()), os.Chown(program, -1, os.Getegid()), os.Chmod(program, 0o775), os.Chmod(dir, 0o775))
			return ""
		}},
		"writable by another group": {change: func(t *testing.T, _, program string) string {
			must(t, os.Chown(program, -1, stranger), os.Chmod(program, 0o775))
			return ""
		}, want: "chmod g-w", needsRoot: true},
		"directory writable by another group": {change: func(t *testing.T, dir, _ string) string {
			must(t, os.Chown(dir, -1, stranger), os.Chmod(dir, 0o775))
			return ""
		}, want: "chmod g-w", needsRoot: true},
		"owned by another user":           {change: func(t *testing.T, _, program string) string { must(t, os.Chown(program, stranger, -1)); return "" }, want: "chown", needsRoot: true},
		"directory owned by another user": {change: func(t *testing.T, dir, _ string) string { must(t, os.Chown(dir, stranger, -1)); return "" }, want: "chown", needsRoot: true},
		"owned by another user, in a sticky directory": {change: func(t *testing.T, dir, program string) string {
			must(t, os.Chmod(dir, 0o777|os.ModeSticky), os.Chown(program, stranger, -1))
			return ""
		}, want: "chown", needsRoot: true},
		"link": {change: func(t *testing.T, _, program string) string {
			link := filepath.Join(t.TempDir(), "link")
			must(t, os.Symlink(program, link))
			return link
		}},
		"link in a directory writable by all": {change: func(t *testing.T, _, program string) string {
			dir := t.TempDir()
			must(t, os.Symlink(program, filepath.Join(dir, "link")), os.Chmod(dir, 0o777))
			return filepath.Join(dir, "link")
		}, want: "chmod o-w"},
		"link through a directory writable by all": {change: func(t *testing.T, dir, program string) string {
			open, safe := t.TempDir(), t.TempDir()
			must(t, os.Symlink(dir, filepath.Join(open, "hop")), os.Symlink(filepath.Join(open, "hop"), filepath.Join(safe, "link")), os.Chmod(open, 0o777))
			return filepath.Join(safe, "link", "program")
		}, want: "chmod o-w"},
		"link of another user in a sticky directory": {change: func(t *testing.T, _, program string) string {
			dir := t.TempDir()
			link := filepath.Join(dir, "link")
			must(t, os.Symlink(program, link), os.Lchown(link, stranger, -1), os.Chmod(dir, 0o777|os.ModeSticky))
			return link
		}, want: "link of the user 54321", needsRoot: true},
		"relative link": {change: func(t *testing.T, dir, _ string) string {
			link := filepath.Join(filepath.Dir(dir), "link")
			must(t, os.Symlink("./dir/../dir/program", link))
			return link
		}},
		"missing file": {change: func(_ *testing.T, dir, _ string) string { return filepath.Join(dir, "absent") }, want: "no such file"},
		"cycle of links": {change: func(t *testing.T, dir, _ string) string {
			must(t, os.Symlink("b", filepath.Join(dir, "a")), os.Symlink("a", filepath.Join(dir, "b")))
			return filepath.Join(dir, "a")
		}, want: "too many levels"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.needsRoot && os.Getuid() != 0 {
				t.Skip("requires root, to change owners")
			}
			dir, program := createProgram(t)
			path := c.change(t, dir, program)
			if path == "" {
				path = program
			}
			err := safefile.CheckProgram(path)
			if c.want == "" {
				if err != nil {
					t.Errorf("CheckProgram = %v, want nil", err)
				}
				return
			}
			if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("CheckProgram = %v, want an Invalid error with %q", err, c.want)
			}
			unreadable := strings.Contains(c.want, "no such") || strings.Contains(c.want, "levels")
			if got := errors.Is(err, safefile.ErrUnsafe); got == unreadable {
				t.Errorf("error is ErrUnsafe: %t, want %t", got, !unreadable)
			}
		})
	}
}

// TestReadSecret verifies the decision for each mode of a file, the limit of its size, and that it must be a regular
// file.
func TestReadSecret(t *testing.T) {
	t.Parallel()
	for mode, safe := range map[os.FileMode]bool{
		0o600: true, 0o400: true, 0o700: true, 0o640: false, 0o604: false, 0o660: false, 0o602: false, 0o644: false,
	} {
		name := filepath.Join(t.TempDir(), "secret")
		must(t, os.WriteFile(name, []byte("12345"), 0o600), os.Chmod(name, mode))
		raw, _, err := safefile.ReadSecret(name, "PIN file", 5)
		check := safefile.CheckSecret(name, "PIN file")
		if (check == nil) != safe || (err == nil) != safe || safe && string(raw) != "12345" {
			t.Errorf("mode %04o, safe %t: ReadSecret = %q, %v, CheckSecret = %v", mode, safe, raw, err, check)
		}
		if err != nil && (!errors.Is(err, safefile.ErrUnsafe) || !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "set its mode to 0600")) {
			t.Errorf("mode %04o: ReadSecret = %v, want an Invalid ErrUnsafe with the remedy", mode, err)
		}
		if _, _, err := safefile.ReadSecret(name, "PIN file", 4); err == nil {
			t.Errorf("mode %04o: ReadSecret read 5 bytes with a limit of 4", mode)
		}
	}
	for _, name := range []string{t.TempDir(), "/dev/null", filepath.Join(t.TempDir(), "absent")} {
		if _, _, err := safefile.ReadSecret(name, "PIN file", 5); !fault.Is(err, fault.Invalid) || errors.Is(err, safefile.ErrUnsafe) {
			t.Errorf("ReadSecret(%s) = %v, want an Invalid error that is not ErrUnsafe", name, err)
		}
	}
}
