package identity_test

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/store/storetest"
)

// TestOIDCLogins verifies that an account of a person with OpenID Connect is active for a time after each login, and
// that no password opens it.
func TestOIDCLogins(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	now := time.Now().Truncate(time.Microsecond)
	s.DB.SetClock(func() time.Time { return now })
	p := identity.NewPeople(identity.PeopleOptions{
		Accounts: s.Accounts, Log: slog.New(slog.DiscardHandler),
		Sources: []identity.Confirmed{{Source: identity.OIDC{}, Recheck: 24 * time.Hour, MaxOutage: 24 * time.Hour}},
	})
	p.SetClock(func() time.Time { return now })
	alice := identity.Person{Name: "alice", ID: "sub=1@https://issuer.example"}
	u, err := p.LoggedIn(t.Context(), identity.OIDCName, alice)
	if err != nil {
		t.Fatal(err)
	}
	wantActive := func(after time.Duration, want bool) {
		t.Helper()
		now = now.Add(after)
		u, err := s.Accounts.User(t.Context(), u.ID)
		if err != nil {
			t.Fatal(err)
		}
		if u, err = p.Confirm(t.Context(), u); err != nil || u.Active != want {
			t.Errorf("Confirm = %t, %v, want %t", u.Active, err, want)
		}
	}
	wantActive(23*time.Hour, true)
	wantActive(2*time.Hour, false)
	if _, err := p.LoggedIn(t.Context(), identity.OIDCName, alice); err != nil {
		t.Fatal(err)
	}
	wantActive(time.Minute, true)
	if _, err := p.Authenticate(t.Context(), "", "alice", "secret"); !errors.Is(err, identity.ErrUnknown) {
		t.Errorf("a password: %v", err)
	}
	if _, err := p.LoggedIn(t.Context(), identity.OIDCName, identity.Person{Name: "alice", ID: "sub=2@https://issuer.example"}); err == nil {
		t.Error("another person of the issuer takes the account over")
	}
}

// TestNewPerson verifies which names accounts may have.
func TestNewPerson(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"alice": true, "alice@example.com": true, "Алиса": true, "": false, "oidc:app": false, "a b": false, "a/b": false,
	} {
		if p, ok := identity.NewPerson(identity.Person{Name: name, First: " A\n"}); ok != want || p.First != "A" {
			t.Errorf("NewPerson(%q) = %+v, %t, want %t", name, p, ok, want)
		}
	}
}
