package identity_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/countersign/countersign/internal/eventually"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/identity/slapdtest"
)

// options returns the settings for a directory of slapdtest.
func options(s *slapdtest.Server) identity.LDAPOptions {
	return identity.LDAPOptions{
		URL: s.TLSURL, CAFile: s.CAFile, BindDN: slapdtest.Service, Password: slapdtest.ServicePassword,
		UserBase: slapdtest.People, UserFilter: "(uid={name})", IDAttribute: "entryUUID", NameAttribute: "uid",
		FirstAttribute: "givenName", LastAttribute: "sn", MailAttribute: "mail",
		GroupBase: slapdtest.Groups, GroupFilter: "(member={dn})",
		Timeout: 30 * time.Second, Log: slog.New(slog.DiscardHandler),
	}
}

// ldapSource returns a source over a directory, after changes of its settings, and its log.
func ldapSource(
	t *testing.T, s *slapdtest.Server, change ...func(*identity.LDAPOptions),
) (*identity.LDAP, *bytes.Buffer) {
	t.Helper()
	log := &bytes.Buffer{}
	o := options(s)
	o.Log = slog.New(slog.NewTextHandler(log, nil))
	for _, f := range change {
		f(&o)
	}
	l, err := identity.NewLDAP(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l, log
}

// TestLDAPAuthenticates verifies people, their attributes and their identity over each kind of connection.
func TestLDAPAuthenticates(t *testing.T) {
	t.Parallel()
	s := slapdtest.Start(t)
	s.AddPerson(t, "alice", "wonderland")
	passwordFile := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(passwordFile, []byte(slapdtest.ServicePassword+"\r\nsecond line\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for name, change := range map[string]func(*identity.LDAPOptions){
		"ldaps":                   func(*identity.LDAPOptions) {},
		"ldaps with StartTLS set": func(o *identity.LDAPOptions) { o.StartTLS = true },
		"StartTLS":                func(o *identity.LDAPOptions) { o.URL, o.StartTLS = s.URL, true },
		"plain":                   func(o *identity.LDAPOptions) { o.URL = s.URL },
		"password file":           func(o *identity.LDAPOptions) { o.Password, o.PasswordFile = "", passwordFile },
		"no groups":               func(o *identity.LDAPOptions) { o.GroupBase = "" },
	} {
		l, _ := ldapSource(t, s, change)
		for range 2 {
			got, err := l.Authenticate(t.Context(), "alice", "wonderland")
			want := identity.Person{Name: "alice", Last: "Person", Mail: "person@example.com"}
			if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(identity.Person{}, "ID")); diff != "" || err != nil {
				t.Errorf("%s: Authenticate: %v, (-want +got):\n%s", name, err, diff)
			}
			ids[got.ID] = true
			again, err := l.Confirm(t.Context(), "alice")
			if diff := cmp.Diff(got, again); diff != "" || err != nil {
				t.Errorf("%s: Confirm: %v, (-Authenticate +Confirm):\n%s", name, err, diff)
			}
		}
		if _, err := l.Authenticate(t.Context(), "alice", "wrong"); !errors.Is(err, identity.ErrPassword) {
			t.Errorf("%s: Authenticate with a wrong password = %v", name, err)
		}
		if _, err := l.Authenticate(t.Context(), "bob", "wonderland"); !errors.Is(err, identity.ErrUnknown) {
			t.Errorf("%s: Authenticate of an unknown person = %v", name, err)
		}
	}
	if len(ids) != 1 || ids[""] {
		t.Errorf("identities of one person: %v", ids)
	}
}

// TestLDAPSearchesAnonymously verifies the search without a service account.
func TestLDAPSearchesAnonymously(t *testing.T) {
	t.Parallel()
	s := slapdtest.Start(t)
	s.AddPerson(t, "alice", "wonderland")
	l, _ := ldapSource(t, s, func(o *identity.LDAPOptions) { o.BindDN, o.Password = "", "" })
	// The directory of the tests shows nothing to anonymous clients.
	if _, err := l.Authenticate(t.Context(), "alice", "wonderland"); err == nil || errors.Is(err, identity.ErrPassword) {
		t.Errorf("Authenticate = %v, want an unknown name or an outage", err)
	}
}

// TestLDAPRefusesHostileNames verifies that names are never part of a filter's structure, and that unusable ones do not
// reach the directory. See hostile-inputs.md#names-in-a-directory.
func TestLDAPRefusesHostileNames(t *testing.T) {
	t.Parallel()
	s := slapdtest.Start(t)
	s.AddPerson(t, "alice", "wonderland")
	s.AddPerson(t, "a*", "star")
	l, _ := ldapSource(t, s)
	_ = s.Log(t)
	for _, name := range []string{
		"*", "a*", "al*", "*)(uid=*", "*))(|(uid=*", "alice)(objectClass=*", "alice)(|(uid=*))", `alice\29`, `\61lice`,
		"alice\\", "(", ")", "alice,ou=people", "uid=alice", "{name}", "{dn}", "&", "|", "!", "alice'", `alice"`,
	} {
		if p, err := l.Authenticate(t.Context(), name, "wonderland"); !errors.Is(err, identity.ErrUnknown) &&
			!errors.Is(err, identity.ErrPassword) {
			t.Errorf("Authenticate(%q) = %+v, %v", name, p, err)
		}
		if p, err := l.Confirm(t.Context(), name); !errors.Is(err, identity.ErrUnknown) {
			t.Errorf("Confirm(%q) = %+v, %v", name, p, err)
		}
	}
	for request := range strings.Lines(s.Log(t)) {
		if strings.Contains(request, "filter=") && !strings.Contains(request, `filter="(uid=`) ||
			strings.Contains(request, "BIND dn=\"uid=alice") {
			t.Errorf("request: %s", request)
		}
	}
	for _, name := range []string{
		"", "al\x00ice", "\x00", "alice\n", "\x1b[31m", "\xff\xfe", strings.Repeat("a", 255), strings.Repeat("é", 10_000),
	} {
		if p, err := l.Authenticate(t.Context(), name, "wonderland"); !errors.Is(err, identity.ErrUnknown) {
			t.Errorf("Authenticate(%.20q) = %+v, %v", name, p, err)
		}
		if p, err := l.Confirm(t.Context(), name); !errors.Is(err, identity.ErrUnknown) {
			t.Errorf("Confirm(%.20q) = %+v, %v", name, p, err)
		}
	}
	if got := s.Log(t); strings.Contains(got, "SRCH") || strings.Contains(got, "BIND") {
		t.Errorf("the directory received requests: %s", got)
	}
}

// TestLDAPPasswords verifies that an empty password, which the directory of the tests accepts for everybody, never
// reaches it, and that passwords may contain any bytes. See hostile-inputs.md#empty-password.
func TestLDAPPasswords(t *testing.T) {
	t.Parallel()
	s := slapdtest.Start(t)
	l, _ := ldapSource(t, s)
	for name, password := range map[string]string{
		"spaces": "  ", "star": "*", "binary": "\xff\x01\x7f", "long": strings.Repeat("p", 512), "utf8": "pässwörd",
		"colon": "a:b:c",
	} {
		s.AddPerson(t, name, password)
		if _, err := l.Authenticate(t.Context(), name, password); err != nil {
			t.Errorf("Authenticate with the password %s = %v", name, err)
		}
	}
	_ = s.Log(t)
	for _, password := range []string{"", strings.Repeat("p", 513)} {
		if _, err := l.Authenticate(t.Context(), "long", password); !errors.Is(err, identity.ErrUnknown) {
			t.Errorf("Authenticate with %d bytes = %v", len(password), err)
		}
	}
	if got := s.Log(t); got != "" {
		t.Errorf("the directory received requests: %s", got)
	}
	// Nor does NUL reach a server that would end the password there.
	if _, err := l.Authenticate(t.Context(), "star", "\x00"); !errors.Is(err, identity.ErrPassword) {
		t.Errorf("Authenticate with NUL = %v", err)
	}
}

// TestLDAPNames verifies that the account's name is the directory's, in lower case and composed, however it was typed.
func TestLDAPNames(t *testing.T) {
	t.Parallel()
	s := slapdtest.Start(t)
	s.AddPerson(t, "Alice", "wonderland")
	s.AddPerson(t, "Jose\u0301", "wonderland") // decomposed é
	s.AddPerson(t, "bad name", "wonderland")
	s.AddPerson(t, "oidc:rule", "wonderland")
	two := s.AddPerson(t, "two", "wonderland")
	s.Replace(t, two, "uid", "two", "zwei")
	l, log := ldapSource(t, s, func(o *identity.LDAPOptions) { o.UserFilter = "(|(uid={name})(mail={name}))" })
	id := ""
	for _, typed := range []string{"alice", "ALICE", "Alice", " alice ", "ａｌｉｃｅ"} {
		p, err := l.Authenticate(t.Context(), typed, "wonderland")
		if err != nil || p.Name != "alice" || id != "" && p.ID != id {
			t.Errorf("Authenticate(%q) = %+v, %v, want alice with one identity", typed, p, err)
		}
		id = p.ID
	}
	for _, typed := range []string{"josé", "jose\u0301", "JOSÉ"} {
		if p, err := l.Authenticate(t.Context(), typed, "wonderland"); err != nil || p.Name != "josé" {
			t.Errorf("Authenticate(%q) = %+v, %v, want josé", typed, p, err)
		}
	}
	for typed, reason := range map[string]string{
		"bad name": "letters, digits", "oidc:rule": "letters, digits",
		"two":                "want one value of ldap.name_attribute (uid), got 2",
		"person@example.com": "several entries match",
	} {
		log.Reset()
		if p, err := l.Authenticate(t.Context(), typed, "wonderland"); !errors.Is(err, identity.ErrUnknown) {
			t.Errorf("Authenticate(%q) = %+v, %v, want ErrUnknown", typed, p, err)
		}
		if !strings.Contains(log.String(), reason) {
			t.Errorf("the log does not explain why %s has no account: %s", typed, log)
		}
	}
}

// TestLDAPGroups verifies the mapping of groups, the administrators and the bounds of the search.
func TestLDAPGroups(t *testing.T) {
	t.Parallel()
	s := slapdtest.Start(t)
	alice := s.AddPerson(t, "alice", "wonderland")
	odd := s.AddPerson(t, "odd(*)#,name", "wonderland")
	dev := s.AddGroup(t, "Dev, Ops", alice, odd)
	other := s.AddGroup(t, "other", alice)
	s.AddGroup(t, "unmapped", alice)
	root := s.AddGroup(t, "root", "cn=nobody")
	l, _ := ldapSource(t, s, func(o *identity.LDAPOptions) {
		o.NameAttribute = "cn"
		o.Groups = map[string]string{
			strings.ToUpper(dev):                       "developers",
			strings.ReplaceAll(other, ",", " ,  "):     "others",
			"cn=absent,ou=groups,dc=example,dc=com":    "absent",
			"cn=unmapped,ou=elsewhere,dc=example,dc=c": "elsewhere",
		}
		o.AdminGroups = []string{strings.ToUpper(root)}
	})
	s.Replace(t, odd, "cn", "odd")
	for typed, want := range map[string]identity.Person{
		"alice":        {Name: "alice", Groups: []string{"developers", "others"}},
		"odd(*)#,name": {Name: "odd", Groups: []string{"developers"}},
	} {
		got, err := l.Authenticate(t.Context(), typed, "wonderland")
		if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(identity.Person{}, "ID", "Last", "Mail")); diff != "" || err != nil {
			t.Errorf("Authenticate(%s): %v, (-want +got):\n%s", typed, err, diff)
		}
	}
	s.Replace(t, root, "member", alice)
	s.Replace(t, other, "member", odd)
	got, err := l.Confirm(t.Context(), "alice")
	if err != nil || !got.Admin || !cmp.Equal(got.Groups, []string{"developers"}) {
		t.Errorf("Confirm after a change of the groups = %+v, %v", got, err)
	}
	for i := range 1000 {
		s.AddGroup(t, fmt.Sprintf("many %d", i), alice)
	}
	_, err = l.Confirm(t.Context(), "alice")
	if !fault.IsOutage(err, fault.Directory) || !strings.Contains(err.Error(), "narrow it") {
		t.Errorf("Confirm of a person with more than 1000 groups = %v, want an outage with the remedy", err)
	}
}

// TestLDAPIdentity verifies that an entry that replaces another with its name has another identity.
func TestLDAPIdentity(t *testing.T) {
	t.Parallel()
	s := slapdtest.Start(t)
	first := s.AddPerson(t, "alice", "wonderland")
	l, _ := ldapSource(t, s)
	byDN, _ := ldapSource(t, s, func(o *identity.LDAPOptions) { o.IDAttribute = "dn" })
	binary, _ := ldapSource(t, s, func(o *identity.LDAPOptions) { o.IDAttribute = "jpegPhoto" })
	before, err := l.Authenticate(t.Context(), "alice", "wonderland")
	if err != nil {
		t.Fatal(err)
	}
	if p, err := byDN.Confirm(t.Context(), "alice"); err != nil || p.ID != "dn=uid=alice,ou=people,dc=example,dc=com" {
		t.Errorf("the identity by name = %+v, %v", p, err)
	}
	if _, err := binary.Confirm(t.Context(), "alice"); !fault.IsOutage(err, fault.Directory) ||
		!strings.Contains(err.Error(), "ldap.id_attribute") {
		t.Errorf("Confirm without an identity = %v, want an outage with the setting", err)
	}
	s.Replace(t, first, "jpegPhoto", "\xff\xd8\x00\x01")
	if p, err := binary.Confirm(t.Context(), "alice"); err != nil || p.ID != "jpegphoto=ffd80001" {
		t.Errorf("a binary identity = %+v, %v", p, err)
	}
	s.Delete(t, first)
	if _, err := l.Confirm(t.Context(), "alice"); !errors.Is(err, identity.ErrUnknown) {
		t.Errorf("Confirm of a removed person = %v, want ErrUnknown", err)
	}
	if _, err := l.Authenticate(t.Context(), "alice", "wonderland"); !errors.Is(err, identity.ErrUnknown) {
		t.Errorf("Authenticate of a removed person = %v, want ErrUnknown", err)
	}
	s.AddPerson(t, "alice", "wonderland")
	if after, err := l.Confirm(t.Context(), "alice"); err != nil || after.ID == before.ID {
		t.Errorf("the identity of another entry with the name = %+v, %v, want another than %+v", after, err, before)
	}
}

// TestLDAPOutage verifies that a directory that cannot answer is an outage, and that people log in again when it can.
func TestLDAPOutage(t *testing.T) {
	t.Parallel()
	s := slapdtest.Start(t)
	s.AddPerson(t, "alice", "wonderland")
	l, _ := ldapSource(t, s)
	for range 2 {
		if _, err := l.Authenticate(t.Context(), "alice", "wonderland"); err != nil {
			t.Fatal(err)
		}
		s.Stop()
		for name, password := range map[string]string{"alice": "wonderland", "bob": "x"} {
			_, err := l.Authenticate(t.Context(), name, password)
			_, confirmErr := l.Confirm(t.Context(), name)
			if !fault.IsOutage(err, fault.Directory) || !fault.IsOutage(confirmErr, fault.Directory) {
				t.Errorf("without the directory: Authenticate(%s) = %v, Confirm = %v, want outages", name, err, confirmErr)
			}
		}
		s.Run(t) // the kept connection is broken now
	}
	if _, err := l.Authenticate(t.Context(), "alice", "wonderland"); err != nil {
		t.Errorf("Authenticate after the outage = %v", err)
	}
	for name, change := range map[string]func(*identity.LDAPOptions){
		"password of the service account": func(o *identity.LDAPOptions) { o.Password = "wrong" },
		"base of the search":              func(o *identity.LDAPOptions) { o.UserBase = "ou=absent," + slapdtest.Base },
		"untrusted certificate":           func(o *identity.LDAPOptions) { o.CAFile = "" },
		"StartTLS, untrusted": func(o *identity.LDAPOptions) {
			o.URL, o.StartTLS, o.CAFile = s.URL, true, ""
		},
		"other host name": func(o *identity.LDAPOptions) { o.URL = strings.Replace(o.URL, "127.0.0.1", "127.0.0.2", 1) },
		"ldaps as ldap":   func(o *identity.LDAPOptions) { o.URL = strings.Replace(s.TLSURL, "ldaps", "ldap", 1) },
		"ldap as ldaps":   func(o *identity.LDAPOptions) { o.URL = strings.Replace(s.URL, "ldap", "ldaps", 1) },
		"no time":         func(o *identity.LDAPOptions) { o.Timeout = time.Nanosecond },
	} {
		l, _ := ldapSource(t, s, change)
		_, err := l.Authenticate(t.Context(), "alice", "wonderland")
		if !fault.IsOutage(err, fault.Directory) {
			t.Errorf("%s: Authenticate = %v, want an outage", name, err)
		}
		if strings.Contains(fmt.Sprint(err), "wonderland") || strings.Contains(fmt.Sprint(err), slapdtest.ServicePassword) {
			t.Errorf("%s: the error contains a password: %v", name, err)
		}
	}
}

// TestLDAPBoundsBrokenServers verifies that a server that is silent, sends garbage or announces a huge response does
// not occupy this one. See hostile-inputs.md#broken-directory.
func TestLDAPBoundsBrokenServers(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"silent":  "",
		"garbage": "HTTP/1.1 400 Bad Request\r\n\r\n",
		"huge":    "\x30\x84\x7f\xff\xff\xff\x02\x01\x01",
		"nested":  strings.Repeat("\x30\x80", 100_000),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address, _ := listen(t, answer)
			for _, startTLS := range []bool{false, true} {
				l, err := identity.NewLDAP(identity.LDAPOptions{
					URL: "ldap://" + address, StartTLS: startTLS, BindDN: "cn=x", Password: "x", UserBase: "dc=x",
					UserFilter: "(uid={name})", IDAttribute: "dn", NameAttribute: "uid", Timeout: 300 * time.Millisecond, Log: slog.New(slog.DiscardHandler),
				})
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				if _, err := l.Authenticate(t.Context(), "alice", "x"); !fault.IsOutage(err, fault.Directory) {
					t.Errorf("Authenticate = %v, want an outage", err)
				}
			}
		})
	}
}

// TestLDAPCancel verifies that a caller that leaves gets the error of its context, not an outage.
func TestLDAPCancel(t *testing.T) {
	t.Parallel()
	address, connections := listen(t, "")
	l, err := identity.NewLDAP(identity.LDAPOptions{
		URL: "ldap://" + address, UserBase: "dc=x", UserFilter: "(uid={name})", IDAttribute: "dn", NameAttribute: "uid",
		Timeout: time.Minute, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for connections.Load() == 0 {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	if _, err := l.Confirm(ctx, "alice"); !errors.Is(err, context.Canceled) || fault.IsOutage(err, fault.Directory) {
		t.Errorf("Confirm = %v, want the error of the context", err)
	}
}

// listen accepts connections, sends each an answer and reads what follows. It returns its address and the number of
// connections.
func listen(t *testing.T, answer string) (string, *atomic.Int64) {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	var accepted atomic.Int64
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			accepted.Add(1)
			go func() {
				_, _ = io.WriteString(c, answer)
				_, _ = io.Copy(io.Discard, c)
				_ = c.Close()
			}()
		}
	}()
	return listener.Addr().String(), &accepted
}

// TestLDAPKeepsFewConnections verifies that searches share connections, and that many at a time are all answered.
func TestLDAPKeepsFewConnections(t *testing.T) {
	t.Parallel()
	s := slapdtest.Start(t)
	s.AddPerson(t, "alice", "wonderland")
	l, _ := ldapSource(t, s)
	if _, err := l.Confirm(t.Context(), "alice"); err != nil {
		t.Fatal(err)
	}
	_ = s.Log(t)
	for range 20 {
		if _, err := l.Confirm(t.Context(), "alice"); err != nil {
			t.Error(err)
		}
	}
	if got := s.Log(t); strings.Contains(got, "BIND") || strings.Count(got, "SRCH base") != 40 {
		t.Errorf("20 confirmations after the first: %s", got)
	}
	results := make(chan error)
	for i := range 50 {
		go func() {
			if i%2 == 0 {
				_, err := l.Confirm(t.Context(), "alice")
				results <- err
				return
			}
			_, err := l.Authenticate(t.Context(), "alice", "wonderland")
			results <- err
		}()
	}
	for range 50 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

// TestLDAPUnknownNamesCostTheSame verifies that the directory gets as many requests for an unknown name as for a wrong
// password.
func TestLDAPUnknownNamesCostTheSame(t *testing.T) {
	t.Parallel()
	s := slapdtest.Start(t)
	s.AddPerson(t, "alice", "wonderland")
	l, _ := ldapSource(t, s)
	counts := map[string][3]int{}
	for _, name := range []string{"alice", "alice", "bob"} {
		_ = s.Log(t)
		if _, err := l.Authenticate(t.Context(), name, "wrong"); err == nil {
			t.Fatal("Authenticate with a wrong password succeeded")
		}
		var got string
		eventually.True(t, 20*time.Second, func() bool {
			got += s.Log(t)
			return strings.Contains(got, "err=49")
		}, "the directory logs no refusal")
		counts[name] = [3]int{strings.Count(got, "SRCH base"), strings.Count(got, "BIND dn"), strings.Count(got, "err=49")}
	}
	if counts["alice"] != counts["bob"] || counts["bob"] != [3]int{1, 1, 1} {
		t.Errorf("searches, binds, refusals: %v", counts)
	}
}

// TestNewLDAPRefusesSettings verifies that the error of a wrong setting names it.
func TestNewLDAPRefusesSettings(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*identity.LDAPOptions){
		"ldap.url: want ldaps":       func(o *identity.LDAPOptions) { o.URL = "http://x" },
		"ldap.url: want ldaps://":    func(o *identity.LDAPOptions) { o.URL = "ldaps://user:pw@x" },
		"ldap.url: want":             func(o *identity.LDAPOptions) { o.URL = "ldaps:///dc=x" },
		"ldap.user_filter: want":     func(o *identity.LDAPOptions) { o.UserFilter = "(uid=alice)" },
		"ldap.user_filter: \"(uid":   func(o *identity.LDAPOptions) { o.UserFilter = "(uid={name}" },
		"ldap.group_filter: want":    func(o *identity.LDAPOptions) { o.GroupFilter = "(objectClass=group)" },
		"ldap.group_filter: \"(memb": func(o *identity.LDAPOptions) { o.GroupFilter = "(member={dn}" },
		"ldap.group_base":            func(o *identity.LDAPOptions) { o.GroupBase, o.AdminGroups = "", []string{"cn=x"} },
		"ldap.groups: want a dist":   func(o *identity.LDAPOptions) { o.Groups = map[string]string{"developers": "x"} },
		"ldap.groups: want the name": func(o *identity.LDAPOptions) { o.Groups = map[string]string{"cn=x": "a\nb"} },
		"ldap.admin_groups":          func(o *identity.LDAPOptions) { o.AdminGroups = []string{"admins"} },
		"ldap.user_base":             func(o *identity.LDAPOptions) { o.UserBase = "example.com" },
		"id_attribute":               func(o *identity.LDAPOptions) { o.IDAttribute = "" },
		"ldap.ca_file":               func(o *identity.LDAPOptions) { o.CAFile = "/dev/null" },
		"ldap.password_file":         func(o *identity.LDAPOptions) { o.PasswordFile = "/nonexistent" },
	} {
		o := options(&slapdtest.Server{TLSURL: "ldaps://ldap.example"})
		change(&o)
		if _, err := identity.NewLDAP(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("NewLDAP = %v, want %s", err, want)
		}
	}
	o := options(&slapdtest.Server{TLSURL: "ldaps://ldap.example"})
	o.BindDN, o.GroupFilter = "registry@ad.example", "(member:1.2.840.113556.1.4.1941:={dn})"
	if _, err := identity.NewLDAP(o); err != nil {
		t.Errorf("NewLDAP with settings for Active Directory = %v", err)
	}
}
