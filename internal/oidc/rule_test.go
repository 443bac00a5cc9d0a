package oidc_test

import (
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/oidc"
	"github.com/countersign/countersign/internal/oidc/oidctest"
)

const (
	github    = "https://token.actions.githubusercontent.com"
	elsewhere = "https://ci.example"
)

// TestRules verifies which rules are refused at start, and the names in the error.
func TestRules(t *testing.T) {
	t.Parallel()
	type claims = map[string][]string
	with := func(c claims) func(*oidc.Rule) { return func(r *oidc.Rule) { r.Claims = c } }
	const wide = "no claim restricts the rule to one project"
	for name, tt := range map[string]struct {
		change func(*oidc.Rule)
		want   string // a part of the error; empty if the rule is accepted
	}{
		"ids":              {change: func(*oidc.Rule) {}},
		"several projects": {change: with(claims{"repository_id": {"22", "23"}})},
		"GitLab project":   {change: with(claims{"project_id": {"7"}, "ref_protected": {"true"}})},
		"exact subject elsewhere": {change: func(r *oidc.Rule) {
			r.Issuer, r.Claims = elsewhere, claims{"sub": {"system:serviceaccount:ci:builder"}}
		}},
		"exact subject that any GitHub project can have": {change: with(claims{"sub": {"environment:prod"}}), want: wide},
		"exact subject of a GitHub owner":                {change: with(claims{"sub": {"repository_owner:acme"}}), want: wide},
		"chosen subject of a GitHub project":             {change: with(claims{"sub": {"environment:prod:repository_id:22"}})},
		"subject of a GitHub project":                    {change: with(claims{"sub": {"repo:acme@11/app@22:*"}})},
		"subject of a GitLab project": {change: func(r *oidc.Rule) {
			r.Issuer, r.Claims = elsewhere, claims{"sub": {"project_path:acme/sub/app:ref_type:branch:*"}}
		}},
		"no claims":                     {change: with(nil), want: wide},
		"ref alone":                     {change: with(claims{"ref": {"refs/heads/main"}}), want: wide},
		"owner alone":                   {change: with(claims{"repository_owner_id": {"11"}}), want: wide},
		"prefix of an id":               {change: with(claims{"repository_id": {"22*"}}), want: wide},
		"one of two values is a prefix": {change: with(claims{"repository": {"acme/app", "acme/*"}}), want: wide},
		"subjects of an owner":          {change: with(claims{"sub": {"repo:acme/*"}}), want: wide},
		"subject without its end":       {change: with(claims{"sub": {"repo:acme/app*"}}), want: wide},
		"subjects of a GitLab group":    {change: with(claims{"sub": {"project_path:acme:*"}}), want: wide},
		"all subjects":                  {change: with(claims{"sub": {"*"}}), want: "sub: want a value"},
		"star inside": {
			change: with(claims{"sub": {"repo:*/app:ref:x"}}), want: `sub: want a value, or a prefix followed by *, got "repo:*/app:ref:x"`,
		},
		"empty value":         {change: with(claims{"repository_id": {""}}), want: "repository_id: want a value"},
		"no value":            {change: with(claims{"repository_id": {"22"}, "ref": {}}), want: "ref: want at least one value"},
		"audience as a claim": {change: with(claims{"repository_id": {"22"}, "aud": {"x"}}), want: "aud: rules match this claim by"},
		"no audience":         {change: func(r *oidc.Rule) { r.Audience = "" }, want: "audience: want"},
		"unknown issuer":      {change: func(r *oidc.Rule) { r.Issuer = "https://elsewhere.example" }, want: `issuer: "https://elsewhere.example" is not`},
		"name with a space":   {change: func(r *oidc.Rule) { r.Name = "a b" }, want: "name: want"},
		"no name":             {change: func(r *oidc.Rule) { r.Name = "" }, want: "name: want"},
		"no grants":           {change: func(r *oidc.Rule) { r.Grants = nil }, want: "grants: want at least one"},
		"no role":             {change: func(r *oidc.Rule) { r.Grants[0].Role = "" }, want: "role: want the name of a role"},
		"no repositories":     {change: func(r *oidc.Rule) { r.Grants[0].Repositories = nil }, want: "repositories of collaborator: want names"},
		"namespaces with a common prefix": {
			change: func(r *oidc.Rule) { r.Grants[0].Repositories = []string{"acme*"} },
			want:   `"acme*" matches other namespaces that begin with acme; write acme/*`,
		},
		"star inside a name": {
			change: func(r *oidc.Rule) { r.Grants[0].Repositories = []string{"acme/*/app"} },
			want:   `repositories of collaborator: want a name, or a prefix followed by *, got "acme/*/app"`,
		},
		"empty signing service": {change: func(r *oidc.Rule) { r.Grants[0].SigningServices = []string{""} }, want: "a name is empty"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := rule(github)
			tt.change(&r)
			_, err := oidc.New(oidc.Options{Issuers: []oidc.Issuer{{URL: github}, {URL: elsewhere}}, Rules: []oidc.Rule{r}})
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("New: %v, want %q", err, tt.want)
			}
			if tt.want != "" && err != nil && r.Name == "app" && !strings.Contains(err.Error(), "oidc.rules: app: ") {
				t.Errorf("the error does not name the rule: %v", err)
			}
		})
	}
	two := []oidc.Rule{rule(github), rule(github)}
	if _, err := oidc.New(oidc.Options{Issuers: []oidc.Issuer{{URL: github}}, Rules: two}); err == nil ||
		!strings.Contains(err.Error(), "oidc.rules: app: another rule has this name") {
		t.Errorf("two rules with one name: %v", err)
	}
}

// TestRulesByName verifies that rules that name their project without its id cause a warning.
func TestRulesByName(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		claims map[string][]string
		warned bool
	}{
		"id":                {claims: map[string][]string{"repository_id": {"22"}}},
		"id and name":       {claims: map[string][]string{"repository_id": {"22"}, "repository": {"acme/app"}}},
		"subject with ids":  {claims: map[string][]string{"sub": {"repo:acme@11/app@22:ref:refs/heads/main"}}},
		"another subject":   {claims: map[string][]string{"sub": {"system:serviceaccount:ci:builder"}}},
		"name":              {claims: map[string][]string{"repository": {"acme/app"}}, warned: true},
		"subject of a name": {claims: map[string][]string{"sub": {"repo:acme/app:ref:refs/heads/main"}}, warned: true},
		"GitLab path":       {claims: map[string][]string{"project_path": {"acme/app"}}, warned: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log strings.Builder
			r := rule(elsewhere)
			r.Claims = tt.claims
			open(t, oidc.Options{
				Issuers: []oidc.Issuer{{URL: elsewhere}}, Rules: []oidc.Rule{r}, Log: slog.New(slog.NewTextHandler(&log, nil)),
			})
			if got := strings.Contains(log.String(), "rule=app"); got != tt.warned {
				t.Errorf("warned = %t, want %t: %s", got, tt.warned, log.String())
			}
		})
	}
}

// TestIssuers verifies which settings of issuers are refused at start.
func TestIssuers(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		issuer oidc.Issuer
		want   string
	}{
		"GitHub":                   {issuer: oidc.Issuer{URL: github}},
		"path and port":            {issuer: oidc.Issuer{URL: "https://gitlab.example:8443/sub", MaxLifetime: 6 * time.Hour}},
		"without TLS":              {issuer: oidc.Issuer{URL: "http://gitlab.example"}, want: "want https://"},
		"without TLS on loopback":  {issuer: oidc.Issuer{URL: "http://127.0.0.1:80"}, want: "want https://"},
		"allowed loopback":         {issuer: oidc.Issuer{URL: "http://127.0.0.1:80", AllowPrivate: []netip.Prefix{oidctest.Loopback}}},
		"allowed private address":  {issuer: oidc.Issuer{URL: "http://10.0.0.1", AllowPrivate: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}, want: "want https://"},
		"no scheme":                {issuer: oidc.Issuer{URL: "gitlab.example"}, want: "want https://"},
		"user":                     {issuer: oidc.Issuer{URL: "https://u@gitlab.example"}, want: "want https://"},
		"query":                    {issuer: oidc.Issuer{URL: "https://gitlab.example?x"}, want: "want https://"},
		"keys without TLS":         {issuer: oidc.Issuer{URL: github, JWKSURI: "http://gitlab.example/keys"}, want: "jwks_uri: want https://"},
		"two places of keys":       {issuer: oidc.Issuer{URL: github, JWKSURI: github, JWKSFile: "x"}, want: "either jwks_uri or jwks_file"},
		"missing CA":               {issuer: oidc.Issuer{URL: github, CAFile: "/no/such/file"}, want: "ca_file"},
		"CA without a certificate": {issuer: oidc.Issuer{URL: github, CAFile: "rule_test.go"}, want: "ca_file: no PEM certificate in rule_test.go"},
		"lifetime too short":       {issuer: oidc.Issuer{URL: github, MaxLifetime: time.Second}, want: "max_lifetime: want 1m0s to 24h0m0s, got 1s"},
		"lifetime too long":        {issuer: oidc.Issuer{URL: github, MaxLifetime: 25 * time.Hour}, want: "max_lifetime"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := oidc.New(oidc.Options{Issuers: []oidc.Issuer{tt.issuer}})
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("New: %v, want %q", err, tt.want)
			}
		})
	}
	if _, err := oidc.New(oidc.Options{Issuers: []oidc.Issuer{{URL: github}, {URL: github}}}); err == nil ||
		!strings.Contains(err.Error(), "occurs twice") {
		t.Errorf("one issuer twice: %v", err)
	}
}

// TestCovers verifies the names that a grant applies to.
func TestCovers(t *testing.T) {
	t.Parallel()
	g := oidc.Grant{Role: "x", Repositories: []string{"acme/app", "base/*"}}
	for name, want := range map[string]bool{
		"acme/app": true, "base/x": true, "base/x/y": true,
		"acme": false, "acme/app2": false, "acme/app/x": false, "base": false, "base2/x": false, "": false,
	} {
		if got := g.Covers(name); got != want {
			t.Errorf("Covers(%q) = %t, want %t", name, got, want)
		}
	}
}
