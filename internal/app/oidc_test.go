package app_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/countersign/countersign/config"
	"github.com/countersign/countersign/internal/app/apptest"
	"github.com/countersign/countersign/internal/oidc/oidctest"
)

const idTokenAudience = "https://registry.example.com"

// withRule returns settings with a rule for pushes to main of one project.
func withRule(t *testing.T, i *oidctest.Issuer) config.Config {
	t.Helper()
	c := apptest.Load(t)
	c.OIDC = config.OIDC{
		Issuers: []config.OIDCIssuer{{URL: i.URL, CAFile: i.CAFile(t), AllowPrivateAddresses: []string{"127.0.0.0/8"}}},
		Rules: []config.OIDCRule{{
			Name: "app", Issuer: i.URL, Audience: idTokenAudience,
			Claims: map[string]config.OIDCValues{"repository_id": {"22"}, "ref": {"refs/heads/main"}},
			Grants: []config.OIDCGrant{{
				Role: "no.such_role", Repositories: []string{"acme/*"}, SigningServices: []string{"no-such-service"},
			}},
		}},
	}
	return c
}

// TestServeIDTokens verifies that a server accepts the id tokens of its rules, in the registry and the REST API, and warns
// about roles and signing services that do not exist.
func TestServeIDTokens(t *testing.T) {
	t.Parallel()
	i := oidctest.New(t)
	s := apptest.Start(t, withRule(t, i))
	for _, want := range []string{"rule=app role=no.such_role", "rule=app service=no-such-service"} {
		if !strings.Contains(s.Log.String(), want) {
			t.Errorf("log lacks %q:\n%s", want, s.Log)
		}
	}
	for name, tt := range map[string]struct {
		change oidctest.Claims
		status int
	}{
		"main":             {status: http.StatusOK},
		"fork":             {change: oidctest.Fork(), status: http.StatusUnauthorized},
		"another branch":   {change: oidctest.Claims{"ref": "refs/heads/x"}, status: http.StatusUnauthorized},
		"another audience": {change: oidctest.Claims{"aud": "https://other.example"}, status: http.StatusUnauthorized},
	} {
		token := i.Token(t, i.GitHub(idTokenAudience).With(tt.change))
		for _, path := range []string{"/v2/", "/pulp/api/v3/repositories/", "/token/?service=x"} {
			if status, body := getAs(t.Context(), t, s.URL+path, token); status != tt.status {
				t.Errorf("%s: GET %s = %d %s, want %d", name, path, status, body, tt.status)
			}
		}
	}
	_, body := getAs(t.Context(), t, s.URL+"/token/?service=x", i.Token(t, i.GitHub(idTokenAudience)))
	var issued struct{ Token string }
	if err := json.Unmarshal([]byte(body), &issued); err != nil || issued.Token == "" {
		t.Errorf("token response %s: %v", body, err)
	}
}

// getAs sends a request with the token of a CI job.
func getAs(ctx context.Context, t *testing.T, url, token string) (status int, body string) {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.SetBasicAuth("oidc", token)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}
