package identity_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/bcrypt"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/safefile"
)

// apacheLine was made with `htpasswd -nbB -C 5 alice wonderland` of Apache 2.4.
const apacheLine = "alice:$2y$05$ra3rzz7svXtNcE/IPzrXIuAjDPai9XLCe0ASDW06glThi2.eahSEC"

// line returns a line of an htpasswd file.
func line(t *testing.T, name, password string) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return name + ":" + string(hash) + "\n"
}

// write replaces a file by one with the text, as editors do.
func write(t *testing.T, name, text string) {
	t.Helper()
	if err := errors.Join(os.WriteFile(name+".new", []byte(text), 0o600), os.Rename(name+".new", name)); err != nil {
		t.Fatal(err)
	}
}

// htpasswd returns a source with a file, the name of the file and its log.
func htpasswd(
	t *testing.T, text string, change ...func(*identity.HtpasswdOptions),
) (source *identity.Htpasswd, file string, log *bytes.Buffer) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "users")
	write(t, file, text)
	log = &bytes.Buffer{}
	o := identity.HtpasswdOptions{File: file, Log: slog.New(slog.NewTextHandler(log, nil))}
	for _, f := range change {
		f(&o)
	}
	h, err := identity.NewHtpasswd(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return h, file, log
}

// TestHtpasswdAuthenticates verifies the decision about passwords and names.
func TestHtpasswdAuthenticates(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 72)
	h, _, _ := htpasswd(t, apacheLine+"\r\n# comment\n\n"+line(t, "bob", "builder")+line(t, "long", long))
	for _, c := range []struct {
		name, password string
		want           error
	}{
		{"alice", "wonderland", nil},
		{"bob", "builder", nil},
		{"long", long, nil},
		{"long", long + "y", identity.ErrPassword}, // bcrypt ignores the 73rd byte
		{"alice", "builder", identity.ErrPassword},
		{"alice", "", identity.ErrPassword},
		{"Alice", "wonderland", identity.ErrUnknown},
		{"alice ", "wonderland", identity.ErrUnknown},
		{"", "", identity.ErrUnknown},
		{"# comment", "", identity.ErrUnknown},
		{"carol", "wonderland", identity.ErrUnknown},
		{"\x00\xff", "wonderland", identity.ErrUnknown},
	} {
		p, err := h.Authenticate(t.Context(), c.name, c.password)
		if !errors.Is(err, c.want) || err == nil && p.Name != c.name {
			t.Errorf("Authenticate(%q, %q) = %+v, %v, want %v", c.name, c.password, p, err, c.want)
		}
	}
	if p, err := h.Confirm(t.Context(), "alice"); err != nil || p.Name != "alice" || p.Admin || p.Groups != nil {
		t.Errorf("Confirm(alice) = %+v, %v", p, err)
	}
	if p, err := h.Confirm(t.Context(), "carol"); !errors.Is(err, identity.ErrUnknown) {
		t.Errorf("Confirm(carol) = %+v, %v, want ErrUnknown", p, err)
	}
}

// TestHtpasswdRefusesLines verifies that lines without a usable entry have no effect, and that the log has their
// numbers and no part of their secrets.
func TestHtpasswdRefusesLines(t *testing.T) {
	t.Parallel()
	bcryptOf := strings.TrimSpace(strings.TrimPrefix(line(t, "", "secret"), ":"))
	for name, entry := range map[string]string{
		"plain text":          "eve:SECRET",
		"crypt":               "eve:rqXexS6ZhobKA",
		"MD5":                 "eve:$apr1$SECRET$4wTwAQxVTzFQnQtkuEWqu1",
		"SHA":                 "eve:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=",
		"other bcrypt":        "eve:" + strings.Replace(bcryptOf, "$2a$", "$2x$", 1),
		"expensive bcrypt":    "eve:" + strings.Replace(bcryptOf, "$04$", "$15$", 1),
		"cheap bcrypt":        "eve:" + strings.Replace(bcryptOf, "$04$", "$03$", 1),
		"short hash":          "eve:" + bcryptOf[:50],
		"long hash":           "eve:" + bcryptOf + "x",
		"no colon":            "SECRET",
		"no name":             ":" + bcryptOf,
		"space in the name":   "eve eve:" + bcryptOf,
		"control in the name": "e\x01ve:" + bcryptOf,
		"slash in the name":   "eve/eve:" + bcryptOf,
		"long name":           strings.Repeat("e", 151) + ":" + bcryptOf,
		"not UTF-8":           "e\xffe:" + bcryptOf,
		"a name again":        "alice:" + bcryptOf,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, _, log := htpasswd(t, "# users\n"+line(t, "alice", "wonderland")+entry+"\n"+line(t, "bob", "builder"))
			for user, password := range map[string]string{"alice": "wonderland", "bob": "builder"} {
				if _, err := h.Authenticate(t.Context(), user, password); err != nil {
					t.Errorf("Authenticate(%s) = %v", user, err)
				}
			}
			if _, err := h.Authenticate(t.Context(), strings.SplitN(entry, ":", 2)[0], "secret"); err == nil {
				t.Error("the line has an effect")
			}
			if got := log.String(); strings.Count(got, "has no effect") != 1 || !strings.Contains(got, "line=3") ||
				!strings.Contains(got, "entries=2 refused=1") {
				t.Errorf("log: %s", got)
			}
			if got := log.String(); strings.Contains(got, "SECRET") || strings.Contains(got, bcryptOf[10:]) {
				t.Errorf("the log contains a secret: %s", got)
			}
		})
	}
}

// TestHtpasswdReadsChanges verifies that changes of the file take effect at once, also two of the same size within the
// resolution of its time, and that they are logged once.
func TestHtpasswdReadsChanges(t *testing.T) {
	t.Parallel()
	h, file, log := htpasswd(t, line(t, "alice", "one"))
	for _, password := range []string{"two", "three", "four"} {
		write(t, file, line(t, "alice", password))
		for range 2 {
			if _, err := h.Authenticate(t.Context(), "alice", password); err != nil {
				t.Errorf("Authenticate with the password %s = %v", password, err)
			}
		}
	}
	// In place, with the time of the version that was read.
	before, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	text := line(t, "alice", "five")
	err = errors.Join(os.WriteFile(file, []byte(text), 0o600), os.Chtimes(file, time.Time{}, before.ModTime()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Authenticate(t.Context(), "alice", "five"); err != nil {
		t.Errorf("Authenticate after a change in place = %v", err)
	}
	if got := strings.Count(log.String(), "read a file of user accounts"); got != 4 {
		t.Errorf("the log reports %d versions, want 4: %s", got, log)
	}
	write(t, file, "")
	if _, err := h.Confirm(t.Context(), "alice"); !errors.Is(err, identity.ErrUnknown) {
		t.Errorf("Confirm of a removed person = %v, want ErrUnknown", err)
	}
}

// TestHtpasswdOutage verifies that a file that cannot be read is an outage, not a removal of everybody.
func TestHtpasswdOutage(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(file string) error{
		"missing":  os.Remove,
		"readable": func(file string) error { return os.Chmod(file, 0o644) },
		"directory": func(file string) error {
			return errors.Join(os.Remove(file), os.Mkdir(file, 0o700))
		},
		"huge": func(file string) error { return os.Truncate(file, 9<<20) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, file, _ := htpasswd(t, line(t, "alice", "wonderland"))
			if err := damage(file); err != nil {
				t.Fatal(err)
			}
			_, err := h.Authenticate(t.Context(), "alice", "wonderland")
			_, confirmErr := h.Confirm(t.Context(), "alice")
			if !fault.IsOutage(err, fault.Directory) || !fault.IsOutage(confirmErr, fault.Directory) {
				t.Errorf("Authenticate = %v, Confirm = %v, want outages", err, confirmErr)
			}
			if msg, _ := fault.Message(err); strings.Contains(msg, file) {
				t.Errorf("the client learns the path: %s", msg)
			}
			if err := os.RemoveAll(file); err != nil {
				t.Fatal(err)
			}
			write(t, file, line(t, "alice", "wonderland"))
			if _, err := h.Authenticate(t.Context(), "alice", "wonderland"); err != nil {
				t.Errorf("Authenticate after the repair = %v", err)
			}
		})
	}
}

// TestHtpasswdIsChecked verifies that a start with unsafe or missing files fails.
func TestHtpasswdIsChecked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	safe, open := filepath.Join(dir, "safe"), filepath.Join(dir, "open")
	write(t, safe, apacheLine)
	write(t, open, apacheLine)
	if err := os.Chmod(open, 0o640); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	for _, c := range []struct {
		o      identity.HtpasswdOptions
		unsafe bool
	}{
		{identity.HtpasswdOptions{File: open, Log: log}, true},
		{identity.HtpasswdOptions{File: safe, GroupFile: open, Log: log}, true},
		{identity.HtpasswdOptions{File: filepath.Join(dir, "none"), Log: log}, false},
		{identity.HtpasswdOptions{File: safe, GroupFile: filepath.Join(dir, "none"), Log: log}, false},
		{identity.HtpasswdOptions{File: safe, AdminGroups: []string{"root"}, Log: log}, false},
	} {
		if _, err := identity.NewHtpasswd(t.Context(), c.o); err == nil || errors.Is(err, safefile.ErrUnsafe) != c.unsafe {
			t.Errorf("NewHtpasswd(%+v) = %v, unsafe: %t", c.o, err, c.unsafe)
		}
	}
}

// TestHtpasswdGroups verifies the groups of people and the administrators.
func TestHtpasswdGroups(t *testing.T) {
	t.Parallel()
	groups := filepath.Join(t.TempDir(), "groups")
	write(t, groups, "# groups\ndev: alice bob\nops: alice al/ice\nno colon\nbad\x01name: alice\ndev: alice\n: alice\n")
	users := line(t, "alice", "a") + line(t, "bob", "b") + line(t, "carol", "c")
	h, _, log := htpasswd(t, users, func(o *identity.HtpasswdOptions) {
		o.GroupFile, o.AdminGroups = groups, []string{"ops", "root"}
	})
	for name, want := range map[string]identity.Person{
		"alice": {Name: "alice", Groups: []string{"dev", "ops"}, Admin: true},
		"bob":   {Name: "bob", Groups: []string{"dev"}},
		"carol": {Name: "carol"},
	} {
		got, err := h.Confirm(t.Context(), name)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("Confirm(%s): %v, (-want +got):\n%s", name, err, diff)
		}
	}
	for _, number := range []int{4, 5, 7} {
		if !strings.Contains(log.String(), fmt.Sprintf("line=%d", number)) {
			t.Errorf("line %d is not reported: %s", number, log)
		}
	}
	write(t, groups, "dev: alice\n")
	if got, err := h.Confirm(t.Context(), "alice"); err != nil || got.Admin || len(got.Groups) != 1 {
		t.Errorf("Confirm after a change of the groups = %+v, %v", got, err)
	}
}
