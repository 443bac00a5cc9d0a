package auth_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/oidc"
	"github.com/countersign/countersign/internal/oidc/oidctest"
	"github.com/countersign/countersign/internal/pulp"
)

const jobAudience = "https://registry.example.com"

// ruleAccounts are the accounts of rules by name, and the tokens that were used.
type ruleAccounts struct {
	mu    sync.Mutex
	users map[string]pulp.User
	used  map[string]bool
}

func (a *ruleAccounts) RuleAccount(_ context.Context, name string) (pulp.User, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	u, ok := a.users[name]
	if !ok {
		u = pulp.User{ID: int64(len(a.users) + 1), Username: name, Kind: pulp.RuleIdentity, Active: true}
		a.users[name] = u
	}
	return u, nil
}

func (a *ruleAccounts) UseToken(_ context.Context, issuer, id string, _ time.Time) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.used[issuer+id] {
		return fault.New(fault.Conflict, "used")
	}
	a.used[issuer+id] = true
	return nil
}

// jobs is an Auth that accepts the tokens of an issuer.
type jobs struct {
	*auth.Auth
	issuer   *oidctest.Issuer
	accounts *ruleAccounts
	tokens   *auth.Tokens
	log      *strings.Builder
}

func newJobs(t *testing.T, rules ...string) *jobs {
	t.Helper()
	i := oidctest.New(t)
	o := oidc.Options{Issuers: []oidc.Issuer{{URL: i.URL, CAFile: i.CAFile(t), AllowPrivate: []netip.Prefix{oidctest.Loopback}}}}
	for _, name := range rules {
		o.Rules = append(o.Rules, oidc.Rule{
			Name: name, Issuer: i.URL, Audience: jobAudience,
			Claims: map[string][]string{"repository_id": {"22"}, "ref": {"refs/heads/main"}},
			Grants: []oidc.Grant{{Role: "x", Repositories: []string{"acme/*"}}},
		})
	}
	v, err := oidc.New(o)
	if err != nil {
		t.Fatal(err)
	}
	key, err := auth.KeptKey(t.Context(), &settings{})
	if err != nil {
		t.Fatal(err)
	}
	j := &jobs{
		issuer: i, accounts: &ruleAccounts{users: map[string]pulp.User{}, used: map[string]bool{}},
		tokens: newTokens(t, key), log: &strings.Builder{},
	}
	users := accounts{"oidc": {ID: 99, Username: "oidc", Hash: hash(t, "secret"), Kind: pulp.LocalUser, Active: true}}
	j.Auth = auth.New(users, slog.New(slog.NewTextHandler(j.log, nil)))
	j.AcceptIDTokens(&auth.IDTokens{Verifier: v, Accounts: j.accounts, Tokens: j.tokens})
	return j
}

func request(t *testing.T, username, password string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.RemoteAddr = "192.0.2.7:41000"
	if username != "" {
		r.SetBasicAuth(username, password)
	}
	return r
}

// TestIDTokenAsPassword verifies that the user oidc authenticates with an id token, and other users and passwords as
// before.
func TestIDTokenAsPassword(t *testing.T) {
	t.Parallel()
	j := newJobs(t, "app")
	good := j.issuer.GitHub(jobAudience).With(oidctest.Claims{"jti": "job-1"})
	text := j.issuer.Token(t, good)
	for name, tt := range map[string]struct{ username, password, want string }{
		"id token":                {username: "oidc", password: text, want: "oidc:app"},
		"id token, again":         {username: "oidc", password: text, want: "oidc:app"},
		"fork":                    {username: "oidc", password: j.issuer.Token(t, good.With(oidctest.Fork()))},
		"another audience":        {username: "oidc", password: j.issuer.Token(t, good.With(oidctest.Claims{"aud": "x"}))},
		"another branch":          {username: "oidc", password: j.issuer.Token(t, good.With(oidctest.Claims{"ref": "refs/heads/x"}))},
		"id token of a user":      {username: "admin", password: text},
		"account of the rule":     {username: "oidc:app", password: text},
		"user name in upper case": {username: "OIDC", password: text},
		"password of a user oidc": {username: "oidc", password: "secret", want: "oidc"},
		"long password":           {username: "oidc", password: strings.Repeat("x", 100)},
	} {
		t.Run(name, func(t *testing.T) {
			r := request(t, tt.username, tt.password)
			r.RemoteAddr = name // failures count for each address
			who, err := j.Basic(r)
			if tt.want == "" {
				if !fault.Is(err, fault.Unauthenticated) {
					t.Errorf("Basic = %+v, %v, want Unauthenticated", who, err)
				}
				return
			}
			if err != nil || who.Account.Username != tt.want {
				t.Fatalf("Basic = %+v, %v, want %s", who, err, tt.want)
			}
			want := "rule app, subject repo:acme@11/app@22:ref:refs/heads/main, token job-1"
			if who.Account.Kind == pulp.RuleIdentity && who.Identity != want {
				t.Errorf("identity %q, want %q", who.Identity, want)
			}
		})
	}
	if log := j.log.String(); strings.Contains(log, text) || !strings.Contains(log, "no rule matches") {
		t.Errorf("log: %s", log)
	}
}

// TestNoRules verifies that a server without rules treats every password alike.
func TestNoRules(t *testing.T) {
	t.Parallel()
	j := newJobs(t, "app")
	text := j.issuer.Token(t, j.issuer.GitHub(jobAudience))
	a := auth.New(accounts{}, slog.New(slog.DiscardHandler))
	if _, err := a.Basic(request(t, "oidc", text)); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("Basic = %v, want Unauthenticated", err)
	}
	if _, _, err := a.ExchangeIDToken(request(t, "", ""), text); !fault.Is(err, fault.NotFound) {
		t.Errorf("ExchangeIDToken = %v, want NotFound", err)
	}
}

// TestExchange verifies that an id token is exchanged once for a job token, which authenticates the same account, and
// that neither of them is accepted in place of another token.
func TestExchange(t *testing.T) {
	t.Parallel()
	j := newJobs(t, "app")
	text := j.issuer.Token(t, j.issuer.GitHub(jobAudience).With(oidctest.Claims{"jti": "job-1"}))
	who, issued, err := j.ExchangeIDToken(request(t, "", ""), text)
	if err != nil || who.Account.Username != "oidc:app" || issued.Lifetime != time.Hour {
		t.Fatalf("ExchangeIDToken = %+v, %v, %v", who, issued.Lifetime, err)
	}
	if _, _, err := j.ExchangeIDToken(request(t, "", ""), text); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("a second exchange: %v, want Unauthenticated", err)
	}
	without := j.issuer.Token(t, j.issuer.GitHub(jobAudience).With(oidctest.Claims{"jti": nil}))
	if _, _, err := j.ExchangeIDToken(request(t, "", ""), without); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("a token without an id: %v, want Unauthenticated", err)
	}
	if _, _, err := j.ExchangeIDToken(request(t, "", ""), issued.Token); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("a job token is exchanged: %v", err)
	}
	if b, err := j.tokens.Verify(issued.Token); err == nil {
		t.Errorf("a job token is a bearer token: %+v", b)
	}
	same, err := j.Basic(request(t, "oidc", issued.Token))
	if err != nil || same.Account.Username != "oidc:app" || same.Identity != who.Identity {
		t.Errorf("the job token: %+v, %v, want %+v", same, err, who)
	}
	bearer, err := j.tokens.Issue(same, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := j.Basic(request(t, "oidc", bearer.Token)); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("a bearer token is a job token: %v", err)
	}
	if b, err := j.tokens.Verify(bearer.Token); err != nil || b.Identity != who.Identity || !j.tokens.BelongsTo(b, same.Account) {
		t.Errorf("the bearer token: %+v, %v", b, err)
	}
}

// TestDisabledJob verifies that neither token of a disabled or recreated account is accepted.
func TestDisabledJob(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*pulp.User){
		"disabled":  func(u *pulp.User) { u.Active = false },
		"recreated": func(u *pulp.User) { u.ID = 1000 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := newJobs(t, "app")
			text := j.issuer.Token(t, j.issuer.GitHub(jobAudience))
			_, issued, err := j.ExchangeIDToken(request(t, "", ""), text)
			if err != nil {
				t.Fatal(err)
			}
			u := j.accounts.users["oidc:app"]
			change(&u)
			j.accounts.users["oidc:app"] = u
			if _, err := j.Basic(request(t, "oidc", issued.Token)); !fault.Is(err, fault.Unauthenticated) {
				t.Errorf("job token: %v, want Unauthenticated", err)
			}
			if _, err := j.Basic(request(t, "oidc", text)); !u.Active && !fault.Is(err, fault.Unauthenticated) {
				t.Errorf("id token: %v, want Unauthenticated", err)
			}
		})
	}
}

// TestRemovedRule verifies that a job token is refused when its rule is no longer configured.
func TestRemovedRule(t *testing.T) {
	t.Parallel()
	j := newJobs(t, "app")
	_, issued, err := j.ExchangeIDToken(request(t, "", ""), j.issuer.Token(t, j.issuer.GitHub(jobAudience)))
	if err != nil {
		t.Fatal(err)
	}
	other, err := oidc.New(oidc.Options{})
	if err != nil {
		t.Fatal(err)
	}
	j.AcceptIDTokens(&auth.IDTokens{Verifier: other, Accounts: j.accounts, Tokens: j.tokens})
	if _, err := j.Basic(request(t, "oidc", issued.Token)); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("Basic = %v, want Unauthenticated", err)
	}
}

// TestRefusedIDTokensAreLimited verifies that refused tokens block their address for others of them, but not for valid
// tokens.
func TestRefusedIDTokensAreLimited(t *testing.T) {
	t.Parallel()
	j := newJobs(t, "app")
	good := j.issuer.Token(t, j.issuer.GitHub(jobAudience))
	bad := j.issuer.Token(t, j.issuer.GitHub(jobAudience).With(oidctest.Fork()))
	for i := range 10 {
		if _, err := j.Basic(request(t, "oidc", bad)); !fault.Is(err, fault.Unauthenticated) {
			t.Fatalf("refused token %d: %v", i, err)
		}
	}
	if _, err := j.Basic(request(t, "oidc", bad)); !fault.Is(err, fault.TooMany) {
		t.Errorf("the eleventh refused token: %v, want TooMany", err)
	}
	if _, _, err := j.ExchangeIDToken(request(t, "", ""), bad); !fault.Is(err, fault.TooMany) {
		t.Errorf("exchange of a refused token: %v, want TooMany", err)
	}
	if _, err := j.Basic(request(t, "oidc", good)); err != nil {
		t.Errorf("a valid token from the same address: %v", err)
	}
}

// TestBearerLifetimeOfJobs verifies that bearer tokens of CI jobs are valid for at most an hour.
func TestBearerLifetimeOfJobs(t *testing.T) {
	t.Parallel()
	j := newJobs(t, "app")
	key, err := auth.KeptKey(t.Context(), &settings{})
	if err != nil {
		t.Fatal(err)
	}
	long, err := auth.NewTokens(key, "https://registry.example.com/token/", "registry.example.com", 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	who, err := j.Basic(request(t, "oidc", j.issuer.Token(t, j.issuer.GitHub(jobAudience))))
	if err != nil {
		t.Fatal(err)
	}
	if issued, err := long.Issue(who, nil); err != nil || issued.Lifetime != time.Hour {
		t.Errorf("lifetime %v, %v, want 1h", issued.Lifetime, err)
	}
}
