package proxy_test

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/oidc"
	"github.com/countersign/countersign/internal/oidc/oidctest"
	"github.com/countersign/countersign/proxy"
)

const jobAudience = "https://" + publicHost

// newJobWorld returns a registry that accepts id tokens of pushes to the branch main of one project, and their issuer.
// The rule grants rights in the namespace jobs, which does not exist.
func newJobWorld(t *testing.T, edits ...func(*proxy.Options)) (*world, *oidctest.Issuer) {
	t.Helper()
	i := oidctest.New(t)
	v, err := oidc.New(oidc.Options{
		Issuers: []oidc.Issuer{{URL: i.URL, CAFile: i.CAFile(t), AllowPrivate: []netip.Prefix{oidctest.Loopback}}},
		Rules: []oidc.Rule{{
			Name: "app", Issuer: i.URL, Audience: jobAudience,
			Claims: map[string][]string{"repository_id": {"22"}, "ref": {"refs/heads/main"}},
			Grants: []oidc.Grant{{Role: "container.containernamespace_collaborator", Repositories: []string{"jobs/*"}}},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, append(edits, func(o *proxy.Options) {
		o.Auth.AcceptIDTokens(&auth.IDTokens{Verifier: v, Accounts: o.Store.Accounts, Tokens: o.Tokens})
		o.Access = o.Store.Accounts.NewDecider(&oidc.Rights{Verifier: v, Roles: o.Store.Accounts})
	})...)
	return w, i
}

// basic returns the Authorization header of a CI job.
func basic(token string) string {
	r := http.Request{Header: http.Header{}}
	r.SetBasicAuth(auth.IDTokenUser, token)
	return r.Header.Get("Authorization")
}

// exchange sends a form to the token service.
func (w *world) exchange(form url.Values) response {
	return w.send(request{
		method: http.MethodPost, path: "/token/", body: form.Encode(),
		headers: []string{"Content-Type", "application/x-www-form-urlencoded"},
	})
}

// exchangeForm is the form of the exchange of an id token.
func exchangeForm(token string) url.Values {
	return url.Values{
		"grant_type":         {"urn:ietf:params:oauth:grant-type:token-exchange"},
		"subject_token_type": {"urn:ietf:params:oauth:token-type:id_token"},
		"subject_token":      {token},
	}
}

// TestTokenExchange verifies the responses of the token service to exchanges of id tokens.
func TestTokenExchange(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	w, i := newJobWorld(t, func(o *proxy.Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	good := i.GitHub(jobAudience).With(oidctest.Claims{"jti": "job-1"})
	a := w.exchange(exchangeForm(i.Token(t, good)))
	var issued struct {
		AccessToken string `json:"access_token"`
		Kind        string `json:"issued_token_type"`
		TokenType   string `json:"token_type"`
		ExpiresIn   int    `json:"expires_in"`
	}
	if err := json.Unmarshal([]byte(a.body), &issued); err != nil || a.status != http.StatusOK || issued.ExpiresIn != 3600 ||
		issued.TokenType != "N_A" || a.header.Get("Cache-Control") != "no-store" {
		t.Fatalf("exchange: %v %+v", err, a)
	}
	if got := w.send(request{as: basic(issued.AccessToken), path: "/v2/"}); got.status != http.StatusOK {
		t.Errorf("the job token on /v2/: %+v", got)
	}
	if !strings.Contains(log.String(), "exchange id token") || !strings.Contains(log.String(), "token job-1") ||
		strings.Contains(log.String(), issued.AccessToken) {
		t.Errorf("audit: %s", log.String())
	}
	with := func(name, value string) url.Values {
		f := exchangeForm(i.Token(t, i.GitHub(jobAudience)))
		f.Set(name, value)
		return f
	}
	for name, tt := range map[string]struct {
		form   url.Values
		status int
		want   string
	}{
		"a second time":    {exchangeForm(i.Token(t, good)), 400, `"error":"invalid_grant","error_description":"This id token was exchanged before.`},
		"fork":             {exchangeForm(i.Token(t, good.With(oidctest.Fork()))), 400, `"error":"invalid_grant","error_description":"The id token is not accepted;`},
		"another kind":     {with("subject_token_type", "urn:ietf:params:oauth:token-type:saml2"), 400, `"error":"invalid_request"`},
		"no token":         {with("subject_token", ""), 400, `"error":"invalid_request"`},
		"another grant":    {with("grant_type", "x"), 405, `not allowed`},
		"long form":        {with("x", strings.Repeat("x", 64<<10)), 413, `"error":"invalid_request"`},
		"job token itself": {exchangeForm(issued.AccessToken), 400, `"error":"invalid_grant"`},
	} {
		if a := w.exchange(tt.form); a.status != tt.status || !strings.Contains(a.body, tt.want) {
			t.Errorf("%s: %+v, want %d with %s", name, a, tt.status, tt.want)
		}
	}
	none := newWorld(t)
	if a := none.exchange(exchangeForm(i.Token(t, good))); a.status != 400 || !strings.Contains(a.body, "unsupported_grant_type") {
		t.Errorf("a server without rules: %+v", a)
	}
}

// TestIDTokenAtTokenService verifies that an id token gives a bearer token, and that refused ones are reported.
func TestIDTokenAtTokenService(t *testing.T) {
	t.Parallel()
	w, i := newJobWorld(t)
	good := i.GitHub(jobAudience)
	a := w.send(request{as: basic(i.Token(t, good)), path: "/token/?service=x"})
	var issued struct{ Token string }
	if err := json.Unmarshal([]byte(a.body), &issued); err != nil || a.status != http.StatusOK {
		t.Fatalf("GET /token/: %v, %+v", err, a)
	}
	if got := w.send(request{as: "Bearer " + issued.Token, path: "/v2/"}); got.status != http.StatusOK {
		t.Errorf("the bearer token on /v2/: %+v", got)
	}
	refused := basic(i.Token(t, good.With(oidctest.Claims{"ref": "refs/heads/feature"})))
	for _, path := range []string{"/token/?service=x", "/v2/"} {
		if a := w.send(request{as: refused, path: path}); a.status != http.StatusUnauthorized ||
			!strings.Contains(a.body, "The id token is not accepted; the server's log has the reason.") {
			t.Errorf("%s with a token of another branch: %+v", path, a)
		}
	}
	i.SetFailing(true)
	fresh, other := newJobWorld(t)
	other.SetFailing(true)
	if a := fresh.send(request{as: basic(other.Token(t, other.GitHub(jobAudience))), path: "/token/?service=x"}); a.status != http.StatusServiceUnavailable ||
		a.header.Get("Retry-After") == "" {
		t.Errorf("an issuer that does not respond: %+v", a)
	}
}

// TestRightsOfIDTokens verifies that a CI job pushes to the names of its rule in a namespace that exists, with its id
// token, its job token and a bearer token, and nowhere else, and that it does not become the owner of what it creates.
func TestRightsOfIDTokens(t *testing.T) {
	t.Parallel()
	w, i := newJobWorld(t)
	token := i.Token(t, i.GitHub(jobAudience))
	start := func(as, name string, status int) {
		t.Helper()
		if a := w.send(request{as: as, method: http.MethodPost, path: "/v2/" + name + "/blobs/uploads/"}); a.status != status {
			t.Errorf("upload to %s = %d %s, want %d", name, a.status, a.body, status)
		}
	}
	start(basic(token), "jobs/app", http.StatusUnauthorized) // the rule's role cannot create the namespace
	w.pushImage("jobs/other", "one", "v1")
	start(basic(token), "jobs/app", http.StatusAccepted)
	start(basic(token), "jobs/other", http.StatusAccepted)
	start(basic(token), "carol/app", http.StatusUnauthorized)
	start(basic(token), "jobs", http.StatusUnauthorized)
	start(basic(i.Token(t, i.GitHub(jobAudience).With(oidctest.Fork()))), "jobs/app", http.StatusUnauthorized)

	var job struct {
		AccessToken string `json:"access_token"`
		Token       string
	}
	if err := json.Unmarshal([]byte(w.exchange(exchangeForm(token)).body), &job); err != nil {
		t.Fatal(err)
	}
	start(basic(job.AccessToken), "jobs/app", http.StatusAccepted)
	a := w.send(request{as: basic(job.AccessToken), path: "/token/?service=x&scope=repository:jobs/app:push"})
	if err := json.Unmarshal([]byte(a.body), &job); err != nil {
		t.Fatal(err)
	}
	start("Bearer "+job.Token, "jobs/app", http.StatusAccepted)
	start("Bearer "+job.Token, "carol/app", http.StatusUnauthorized)

	u, err := w.store.Accounts.UserByName(t.Context(), "oidc:app")
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if err := w.store.DB.Read().QueryRowContext(t.Context(),
		`SELECT COUNT(*) FROM role_assignment WHERE account_id = $1`, u.ID).Scan(&n); err != nil || n != 0 {
		t.Errorf("%d roles are assigned to the job, %v, want none", n, err)
	}
}
