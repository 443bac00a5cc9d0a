package config_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/config"
)

// TestOIDC verifies that rules for id tokens are read from the file, with numbers and single values as claims.
func TestOIDC(t *testing.T) {
	t.Parallel()
	c := load(t, writeFile(t, `
oidc:
  issuers:
  - {url: https://gitlab.example, ca_file: /ca.pem, max_lifetime: 6h, allow_private_addresses: [10.1.2.3]}
  rules:
  - name: app
    issuer: https://gitlab.example
    audience: https://registry.example.com
    claims: {project_id: 22, ref_protected: true, ref: [main, v*]}
    grants:
    - {role: collaborator, repositories: [acme/app], signing_services: [release]}
`))
	want := config.OIDC{
		Login: config.Default().OIDC.Login,
		Issuers: []config.OIDCIssuer{{
			URL: "https://gitlab.example", CAFile: "/ca.pem", MaxLifetime: 6 * time.Hour,
			AllowPrivateAddresses: []string{"10.1.2.3"},
		}},
		Rules: []config.OIDCRule{{
			Name: "app", Issuer: "https://gitlab.example", Audience: "https://registry.example.com",
			Claims: map[string]config.OIDCValues{"project_id": {"22"}, "ref_protected": {"true"}, "ref": {"main", "v*"}},
			Grants: []config.OIDCGrant{{
				Role: "collaborator", Repositories: []string{"acme/app"}, SigningServices: []string{"release"},
			}},
		}},
	}
	if diff := cmp.Diff(want, c.OIDC); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	private, err := c.OIDC.Issuers[0].Prefixes()
	if err != nil || len(private) != 1 || private[0].String() != "10.1.2.3/32" {
		t.Errorf("Prefixes = %v, %v", private, err)
	}
}

// TestInvalidOIDC verifies the errors of rules that cannot be read.
func TestInvalidOIDC(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ file, want string }{
		"unknown key":        {file: "oidc: {rules: [{name: a, clams: {}}]}\n", want: "clams"},
		"claim as a mapping": {file: "oidc: {rules: [{claims: {ref: {a: b}}}]}\n", want: "want a value or a list of values"},
		"address by name": {
			file: "oidc: {issuers: [{allow_private_addresses: [gitlab.example]}]}\n",
			want: `oidc.issuers: allow_private_addresses: want addresses or networks like 10.1.0.0/16, got "gitlab.example"`,
		},
	} {
		if _, err := config.Load(writeFile(t, tt.file), nil); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want an error with %q", name, err, tt.want)
		}
	}
}

// TestOIDCInEnvironment verifies that a variable for the rules, which the file sets, causes a warning.
func TestOIDCInEnvironment(t *testing.T) {
	t.Parallel()
	loaded, err := config.Load("", []string{"COUNTERSIGN_OIDC_RULES=x", "COUNTERSIGN_OIDC_ISSUERS_0_URL=x"})
	if err != nil {
		t.Fatal(err)
	}
	want := []config.Warning{
		{Setting: "COUNTERSIGN_OIDC_ISSUERS_0_URL", Problem: "unknown setting in the environment"},
		{Setting: "COUNTERSIGN_OIDC_RULES", Problem: "unknown setting in the environment"},
	}
	if diff := cmp.Diff(want, loaded.Warnings); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
}
