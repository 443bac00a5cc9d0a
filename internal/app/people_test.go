package app_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/countersign/countersign/config"
	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/app"
	"github.com/countersign/countersign/internal/app/apptest"
	"github.com/countersign/countersign/internal/eventually"
	"github.com/countersign/countersign/internal/identity/slapdtest"
	"github.com/countersign/countersign/internal/pgtest"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
)

// people returns settings with the directory of a test, which is asked again after recheck.
func people(t *testing.T, directory *slapdtest.Server, recheck time.Duration) config.Config {
	t.Helper()
	c := apptest.Load(t, "LDAP_URL="+directory.URL, "LDAP_CA_FILE="+directory.CAFile, "LDAP_BIND_DN="+slapdtest.Service,
		"LDAP_PASSWORD="+slapdtest.ServicePassword, "LDAP_USER_BASE="+slapdtest.People, "LDAP_GROUP_BASE="+slapdtest.Groups,
		`LDAP_GROUPS={"cn=dev,`+slapdtest.Groups+`": developers}`, `LDAP_ADMIN_GROUPS=["cn=ops,`+slapdtest.Groups+`"]`)
	c.LDAP.Recheck, c.LDAP.Timeout = recheck, 30*time.Second // the machine may be busy
	return c
}

// get returns the response to a request with a user's password, or with a bearer token if name is empty.
func get(t *testing.T, s *apptest.Server, path, name, secret string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if name == "" {
		request.Header.Set("Authorization", "Bearer "+secret)
	} else {
		request.SetBasicAuth(name, secret)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	var body struct {
		Token string `json:"token"`
	}
	_ = json.NewDecoder(response.Body).Decode(&body)
	return response.StatusCode, body.Token
}

// token returns a bearer token of a person.
func token(t *testing.T, s *apptest.Server, name, password string) string {
	t.Helper()
	status, text := get(t, s, "/token/?service="+s.Config.Public().Host, name, password)
	if status != http.StatusOK || text == "" {
		t.Fatalf("a token for %s: status %d", name, status)
	}
	return text
}

// account returns the stored account of a name.
func account(t *testing.T, c config.Config, name string) (u pulp.User) {
	t.Helper()
	a, _ := apptest.New(c)
	if err := a.WithStore(t.Context(), func(s *store.Store) (err error) {
		u, err = s.Accounts.UserByName(t.Context(), name)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return u
}

// apiToken creates an API token of an account and returns its secret.
func apiToken(t *testing.T, c config.Config, name string) (secret string) {
	t.Helper()
	owner := account(t, c, name)
	a, _ := apptest.New(c)
	if err := a.WithStore(t.Context(), func(s *store.Store) (err error) {
		_, secret, err = s.Accounts.CreateAPIToken(t.Context(), access.APIToken{AccountID: owner.ID, Name: "ci"})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return secret
}

// TestPeopleOfADirectory verifies on two servers that people of an LDAP directory log in, and that a removed person loses
// access with the password and with tokens.
func TestPeopleOfADirectory(t *testing.T) {
	t.Parallel()
	directory := slapdtest.Start(t)
	alice := directory.AddPerson(t, "alice", "wonderland")
	bob := directory.AddPerson(t, "bob", "builder")
	directory.AddPerson(t, app.AdminName, "directory-password") // reserved, also for other spellings
	directory.AddGroup(t, "dev", alice)
	directory.AddGroup(t, "ops", bob)
	const recheck = 500 * time.Millisecond
	c := people(t, directory, recheck)
	c.DatabaseURL = pgtest.Database(t)
	if a, _ := apptest.New(c); a.Migrate(t.Context()) != nil {
		t.Fatal("the schema cannot be created")
	}
	other := people(t, directory, recheck)
	other.DatabaseURL, other.PublicURL, other.Storage = c.DatabaseURL, c.PublicURL, c.Storage
	other.Workers = 0 // one process has one worker
	first, second := apptest.Start(t, c), apptest.Start(t, other)

	for name, passwords := range map[string]map[string]int{
		"alice":       {"wonderland": http.StatusOK, "": http.StatusUnauthorized, "builder": http.StatusUnauthorized},
		"ALICE":       {"wonderland": http.StatusOK},
		"*":           {"wonderland": http.StatusUnauthorized},
		app.AdminName: {apptest.AdminPassword: http.StatusOK, "directory-password": http.StatusUnauthorized},
		"Admin":       {"directory-password": http.StatusUnauthorized},
	} {
		for password, want := range passwords {
			if got := first.Login(t, name, password); got != want {
				t.Errorf("login of %s with %q: status %d, want %d", name, password, got, want)
			}
		}
	}
	tokens := map[*apptest.Server]string{first: token(t, first, "alice", "wonderland"), second: token(t, second, "alice", "wonderland")}
	if u := account(t, c, "alice"); u.Kind != pulp.ExternalUser || u.Source != "ldap" || u.Staff || u.Email == "" {
		t.Errorf("the account of alice: %+v", u)
	}
	if first.Login(t, "bob", "builder") != http.StatusOK || !account(t, c, "bob").Staff {
		t.Error("bob is no administrator")
	}
	for s, text := range tokens {
		if status, _ := get(t, s, "/v2/", "", text); status != http.StatusOK {
			t.Errorf("alice's token: status %d", status)
		}
	}

	secret := apiToken(t, c, "alice")
	if got := first.Login(t, "alice", secret); got != http.StatusOK {
		t.Errorf("alice's API token: status %d", got)
	}

	directory.Delete(t, alice)
	for s, text := range tokens {
		eventually.True(t, time.Minute, func() bool {
			byToken, _ := get(t, s, "/v2/", "", text)
			return byToken == http.StatusUnauthorized && s.Login(t, "alice", secret) == http.StatusUnauthorized &&
				s.Login(t, "alice", "wonderland") == http.StatusUnauthorized
		}, "alice loses access")
	}
	if account(t, c, "alice").Active {
		t.Error("the account of alice is active")
	}
	if log := first.Log.String() + second.Log.String(); strings.Count(log, `action="remove user" object=alice`) != 1 ||
		strings.Contains(log, "wonderland") || strings.Contains(log, slapdtest.ServicePassword) {
		t.Errorf("log:\n%s", log)
	}
}

// TestDirectoryOutage verifies that an outage of the directory is 503 for new logins, does not concern local accounts, and
// that tokens stay valid for the configured time.
func TestDirectoryOutage(t *testing.T) {
	t.Parallel()
	directory := slapdtest.Start(t)
	directory.AddPerson(t, "alice", "wonderland")
	c := people(t, directory, 100*time.Millisecond)
	s := apptest.Start(t, c)
	text := token(t, s, "alice", "wonderland")
	directory.Stop()
	if got := s.Login(t, "bob", "builder"); got != http.StatusServiceUnavailable {
		t.Errorf("login during the outage: status %d, want 503", got)
	}
	if got := s.Login(t, app.AdminName, apptest.AdminPassword); got != http.StatusOK {
		t.Errorf("login of admin: status %d, want 200", got)
	}
	eventually.True(t, time.Minute, func() bool {
		status, _ := get(t, s, "/v2/", "", text)
		if status != http.StatusOK {
			t.Fatalf("alice's token: status %d", status)
		}
		return strings.Contains(s.Log.String(), "a source of user accounts does not answer")
	}, "the confirmation is renewed")
	if err := s.Stop(t); err != nil {
		t.Fatal(err)
	}
	c.LDAP.MaxOutage = c.LDAP.Recheck
	s = apptest.Start(t, c)
	if status, _ := get(t, s, "/v2/", "", text); status != http.StatusServiceUnavailable {
		t.Errorf("alice's token after max_outage: status %d, want 503", status)
	}
	directory.Run(t)
	eventually.True(t, time.Minute, func() bool {
		status, _ := get(t, s, "/v2/", "", text)
		return status == http.StatusOK
	}, "alice's token is valid again")
}

// TestPeopleOfAFile verifies that people of an htpasswd file log in beside those of the directory, and lose access when
// their line is removed.
func TestPeopleOfAFile(t *testing.T) {
	t.Parallel()
	hash, err := bcrypt.GenerateFromPassword([]byte("builder"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "users")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("bob:" + string(hash) + "\nplain:secret\n")
	s := apptest.Start(t, apptest.Load(t, "HTPASSWD_FILE="+file))
	for name, want := range map[string]int{"bob": http.StatusOK, "plain": http.StatusUnauthorized} {
		if got := s.Login(t, name, "builder"); got != want {
			t.Errorf("login of %s: status %d, want %d", name, got, want)
		}
	}
	text := token(t, s, "bob", "builder")
	write("carol:" + string(hash) + "\n")
	if got := s.Login(t, "carol", "builder"); got != http.StatusOK {
		t.Errorf("login of carol: status %d", got)
	}
	eventually.True(t, time.Minute, func() bool {
		byToken, _ := get(t, s, "/v2/", "", text)
		return byToken == http.StatusUnauthorized && s.Login(t, "bob", "builder") == http.StatusUnauthorized
	}, "bob loses access")
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	a, _ := apptest.New(apptest.Load(t, "HTPASSWD_FILE="+file))
	if err := a.Serve(t.Context(), app.Greeting{Out: &apptest.Buffer{}}); err == nil || !strings.Contains(err.Error(), "0600") {
		t.Errorf("Serve with a file that others can read = %v, want the remedy", err)
	}
}
