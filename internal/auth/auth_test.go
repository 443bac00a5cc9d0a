package auth_test

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

// accounts are users by name.
type accounts map[string]pulp.User

func (a accounts) UserByName(_ context.Context, name string) (pulp.User, error) {
	u, ok := a[name]
	if !ok {
		return u, fault.New(fault.NotFound, "no user")
	}
	return u, nil
}

// OnChange implements auth.Accounts.
func (accounts) OnChange(func()) {}

// APIToken implements auth.APITokens.
func (accounts) APIToken(context.Context, string) (access.APIToken, error) {
	return access.APIToken{}, fault.New(fault.NotFound, "no token")
}

// APITokenByHash implements auth.APITokens.
func (a accounts) APITokenByHash(ctx context.Context, _ string) (access.APIToken, error) {
	return a.APIToken(ctx, "")
}

// APITokensUsed implements auth.APITokens.
func (accounts) APITokensUsed(context.Context, map[string]time.Time) error { return nil }

func hash(t *testing.T, password string) string {
	t.Helper()
	h, err := auth.HashPassword(password)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestLogin(t *testing.T) {
	t.Parallel()
	users := accounts{
		"admin": {ID: 1, Username: "admin", Hash: hash(t, "secret"), Staff: true, Active: true},
		"gone":  {ID: 2, Username: "gone", Hash: hash(t, "secret")},
		"robot": {ID: 3, Username: "robot", Active: true}, // no password
	}
	a := auth.New(users, slog.New(slog.DiscardHandler))
	tests := map[string]struct {
		name, password string
		good           bool
	}{
		"the right password":                          {name: "admin", password: "secret", good: true},
		"the right password, remembered":              {name: "admin", password: "secret", good: true},
		"a wrong password":                            {name: "admin", password: "Secret"},
		"no password":                                 {name: "admin"},
		"a password that is too long":                 {name: "admin", password: "secret" + strings.Repeat("x", 100)},
		"an unknown user":                             {name: "nobody", password: "secret"},
		"an inactive user":                            {name: "gone", password: "secret"},
		"a user without a password":                   {name: "robot"},
		"the same concatenation of name and password": {name: "admins", password: "ecret"},
	}
	for name, tt := range tests {
		u, err := a.Login(t.Context(), tt.name, tt.password)
		if tt.good && (err != nil || u.ID != 1) || !tt.good && !fault.Is(err, fault.Unauthenticated) {
			t.Errorf("%s: %+v, %v", name, u, err)
		}
	}
	// A change of the password invalidates cached checks.
	changed := users["admin"]
	changed.Hash = hash(t, "changed")
	users["admin"] = changed
	if _, err := a.Login(t.Context(), "admin", "secret"); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("the old password: %v, want Unauthenticated", err)
	}
	if _, err := a.Login(t.Context(), "admin", "changed"); err != nil {
		t.Errorf("the new password: %v", err)
	}
}

// TestRefusedLoginsAreLogged checks that the log entry of a refused login contains the name and the address but not the
// password.
func TestRefusedLoginsAreLogged(t *testing.T) {
	t.Parallel()
	users := accounts{"admin": {ID: 1, Username: "admin", Hash: hash(t, "secret"), Active: true}}
	var log strings.Builder
	a := auth.New(users, slog.New(slog.NewTextHandler(&log, nil)))
	for _, c := range []struct{ name, password, want string }{
		{name: "admin", password: "secret"},
		{name: "admin", password: "hunter2", want: `level=WARN msg="login refused" user=admin from=192.0.2.7:41000`},
		{name: "x\ny" + strings.Repeat("z", 1000), password: "hunter2", want: `user="x\ny` + strings.Repeat("z", 97) + `" from=192.0.2.7:41000`},
	} {
		log.Reset()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.RemoteAddr = "192.0.2.7:41000"
		r.SetBasicAuth(c.name, c.password)
		_, _ = a.Basic(r)
		if got := log.String(); (got == "") != (c.want == "") || !strings.Contains(got, c.want) ||
			strings.Contains(got, "hunter2") {
			t.Errorf("%.20q: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestBasic(t *testing.T) {
	t.Parallel()
	users := accounts{"admin": {ID: 1, Username: "admin", Hash: hash(t, "secret"), Active: true}}
	a := auth.New(users, slog.New(slog.DiscardHandler))
	for header, want := range map[string]string{
		"":                       "anonymous",
		"Basic YWRtaW46c2VjcmV0": "admin",
		"Basic YWRtaW46eA==":     "refused",
		"Basic !":                "refused",
		"Bearer x":               "refused",
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		if err != nil {
			t.Fatal(err)
		}
		if header != "" {
			r.Header.Set("Authorization", header)
		}
		u, err := a.Basic(r)
		got := "anonymous"
		switch {
		case fault.Is(err, fault.Unauthenticated):
			got = "refused"
		case err != nil:
			t.Error(err)
		case u != nil:
			got = u.Account.Username
		}
		if got != want {
			t.Errorf("%q: %s, want %s", header, got, want)
		}
	}
}

func TestHashPassword(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", strings.Repeat("x", 73)} {
		if _, err := auth.HashPassword(bad); !fault.Is(err, fault.Invalid) {
			t.Errorf("HashPassword of %d bytes = %v, want Invalid", len(bad), err)
		}
	}
}
