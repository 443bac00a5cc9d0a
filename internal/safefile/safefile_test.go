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

// stranger is a user and a group that the tests are not.
const stranger = 54321

// place makes dir/program below a directory of the test and returns both paths.
func place(t *testing.T) (dir, program string) {
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

// TestCheckProgram gives programs, and the directories and links above them, permissions of every kind.
func TestCheckProgram(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(t *testing.T, dir, program string) string // returns the path to check; empty: program
		says   string                                         // empty: it is safe
		root   bool                                           // only root can make it so
	}{
		"as it should be":                     {func(*testing.T, string, string) string { return "" }, "", false},
		"writable by all":                     {func(t *testing.T, _, program string) string { must(t, os.Chmod(program, 0o777)); return "" }, "chmod o-w", false},
		"a directory that is writable by all": {func(t *testing.T, dir, _ string) string { must(t, os.Chmod(dir, 0o777)); return "" }, "chmod o-w", false},
		"a directory further above": {func(t *testing.T, dir, program string) string {
			must(t, os.Chmod(filepath.Dir(dir), 0o777))
			return ""
		}, "chmod o-w", false},
		"a sticky directory": {func(t *testing.T, dir, _ string) string { must(t, os.Chmod(dir, 0o777|os.ModeSticky)); return "" }, "", false},
		"writable by the own group": {func(t *testing.T, dir, program string) string {
			must(t, os.Chown(dir, -1, os.Getegid()), os.Chown(program, -1, os.Getegid()), os.Chmod(program, 0o775), os.Chmod(dir, 0o775))
			return ""
		}, "", false},
		"writable by another group": {func(t *testing.T, _, program string) string {
			must(t, os.Chown(program, -1, stranger), os.Chmod(program, 0o775))
			return ""
		}, "chmod g-w", true},
		"a directory that is writable by another group": {func(t *testing.T, dir, _ string) string {
			must(t, os.Chown(dir, -1, stranger), os.Chmod(dir, 0o775))
			return ""
		}, "chmod g-w", true},
		"another user's":                {func(t *testing.T, _, program string) string { must(t, os.Chown(program, stranger, -1)); return "" }, "chown", true},
		"a directory of another user's": {func(t *testing.T, dir, _ string) string { must(t, os.Chown(dir, stranger, -1)); return "" }, "chown", true},
		"another user's, in a sticky directory": {func(t *testing.T, dir, program string) string {
			must(t, os.Chmod(dir, 0o777|os.ModeSticky), os.Chown(program, stranger, -1))
			return ""
		}, "chown", true},
		"a link to it": {func(t *testing.T, _, program string) string {
			link := filepath.Join(t.TempDir(), "link")
			must(t, os.Symlink(program, link))
			return link
		}, "", false},
		"a link in a directory that is writable by all": {func(t *testing.T, _, program string) string {
			dir := t.TempDir()
			must(t, os.Symlink(program, filepath.Join(dir, "link")), os.Chmod(dir, 0o777))
			return filepath.Join(dir, "link")
		}, "chmod o-w", false},
		"a link over such a directory": {func(t *testing.T, dir, program string) string {
			open, safe := t.TempDir(), t.TempDir()
			must(t, os.Symlink(dir, filepath.Join(open, "hop")), os.Symlink(filepath.Join(open, "hop"), filepath.Join(safe, "link")), os.Chmod(open, 0o777))
			return filepath.Join(safe, "link", "program")
		}, "chmod o-w", false},
		"a stranger's link in a sticky directory": {func(t *testing.T, _, program string) string {
			dir := t.TempDir()
			link := filepath.Join(dir, "link")
			must(t, os.Symlink(program, link), os.Lchown(link, stranger, -1), os.Chmod(dir, 0o777|os.ModeSticky))
			return link
		}, "link of the user 54321", true},
		"a relative link": {func(t *testing.T, dir, _ string) string {
			link := filepath.Join(filepath.Dir(dir), "link")
			must(t, os.Symlink("./dir/../dir/program", link))
			return link
		}, "", false},
		"not there": {func(_ *testing.T, dir, _ string) string { return filepath.Join(dir, "absent") }, "no such file", false},
		"a circle of links": {func(t *testing.T, dir, _ string) string {
			must(t, os.Symlink("b", filepath.Join(dir, "a")), os.Symlink("a", filepath.Join(dir, "b")))
			return filepath.Join(dir, "a")
		}, "too many levels", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.root && os.Getuid() != 0 {
				t.Skip("only root may give files away")
			}
			dir, program := place(t)
			path := c.change(t, dir, program)
			if path == "" {
				path = program
			}
			err := safefile.CheckProgram(path)
			switch {
			case c.says == "" && err != nil:
				t.Errorf("%v", err)
			case c.says != "" && (!fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), c.says)):
				t.Errorf("%v, want one that says %q", err, c.says)
			}
			if absent := strings.Contains(c.says, "no such") || strings.Contains(c.says, "levels"); c.says != "" && errors.Is(err, safefile.ErrUnsafe) == absent {
				t.Errorf("unsafe: %t", !absent)
			}
		})
	}
}

// TestReadSecret reads files of all modes.
func TestReadSecret(t *testing.T) {
	t.Parallel()
	for mode, safe := range map[os.FileMode]bool{0o600: true, 0o400: true, 0o700: true, 0o640: false, 0o604: false, 0o660: false, 0o602: false, 0o644: false} {
		name := filepath.Join(t.TempDir(), "secret")
		must(t, os.WriteFile(name, []byte("12345"), 0o600), os.Chmod(name, mode))
		raw, _, err := safefile.ReadSecret(name, "PIN file", 5)
		if check := safefile.CheckSecret(name, "PIN file"); (check == nil) != safe || (err == nil) != safe || safe && string(raw) != "12345" {
			t.Errorf("%04o: %q, %v, %v", mode, raw, err, check)
		}
		if err != nil && (!errors.Is(err, safefile.ErrUnsafe) || !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "set its mode to 0600")) {
			t.Errorf("%04o: %v", mode, err)
		}
		if _, _, err := safefile.ReadSecret(name, "PIN file", 4); err == nil {
			t.Errorf("%04o: five bytes are read where four are permitted", mode)
		}
	}
	for _, name := range []string{t.TempDir(), "/dev/null", filepath.Join(t.TempDir(), "absent")} {
		if _, _, err := safefile.ReadSecret(name, "PIN file", 5); !fault.Is(err, fault.Invalid) || errors.Is(err, safefile.ErrUnsafe) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
