package app

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/config"
)

// TestIDTokenRules verifies that the settings of rules arrive in package oidc, and that a rule for more than one project
// prevents the start.
func TestIDTokenRules(t *testing.T) {
	t.Parallel()
	rule := config.OIDCRule{
		Name: "app", Issuer: "https://gitlab.example", Audience: "https://registry.example.com",
		Claims: map[string]config.OIDCValues{"project_id": {"22"}},
		Grants: []config.OIDCGrant{{Role: "collaborator", Repositories: []string{"acme/*"}, SigningServices: []string{"release"}}},
	}
	c := loadConfig(t)
	c.OIDC = config.OIDC{
		Issuers: []config.OIDCIssuer{{URL: "https://gitlab.example", MaxLifetime: 6 * time.Hour}}, Rules: []config.OIDCRule{rule},
	}
	a := New(Options{Config: c, Log: slog.New(slog.DiscardHandler)})
	v, err := a.idTokens()
	if err != nil {
		t.Fatal(err)
	}
	got, ok := v.Rule("app")
	if !ok || got.Audience != rule.Audience || !got.Grants[0].Covers("acme/app") || got.Grants[0].SigningServices[0] != "release" {
		t.Errorf("rule %+v, %t", got, ok)
	}
	c.OIDC.Rules[0].Claims = map[string]config.OIDCValues{"ref": {"main"}}
	a = New(Options{Config: c, Log: slog.New(slog.DiscardHandler)})
	if _, err := a.idTokens(); err == nil || !strings.Contains(err.Error(), "oidc.rules: app: claims: no claim restricts") {
		t.Errorf("a rule for every project: %v", err)
	}
}
