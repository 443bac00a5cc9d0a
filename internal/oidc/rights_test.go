package oidc_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/oidc"
	"github.com/countersign/countersign/internal/pulp"
)

// roles are the permissions of custom roles.
type roles map[string]access.Set

func (r roles) RolePermissions(_ context.Context, name string) (access.Set, error) {
	if name == "broken" {
		return access.Set{}, errors.New("the database does not respond")
	}
	return r[name], nil
}

const (
	collaborator = "container.containernamespace_collaborator"
	consumer     = "container.containerdistribution_consumer"
)

// rights returns the rights of a rule with grants, and the account of the rule.
func rights(t *testing.T, grants ...oidc.Grant) (*oidc.Rights, pulp.User) {
	t.Helper()
	r := rule(github)
	r.Grants = grants
	v := open(t, oidc.Options{Issuers: []oidc.Issuer{{URL: github}}, Rules: []oidc.Rule{r}})
	own := roles{"custom": access.SetOf(access.ModifyPushContent, access.AddNamespace)}
	return &oidc.Rights{Verifier: v, Roles: own}, pulp.User{ID: 7, Username: r.Account(), Kind: pulp.RuleIdentity, Active: true}
}

// TestRights decides with access.Allow about objects of names that the rule grants rights on, and of others.
func TestRights(t *testing.T) {
	t.Parallel()
	of, account := rights(t,
		oidc.Grant{Role: collaborator, Repositories: []string{"acme/app", "acme/app/*"}, SigningServices: []string{"release"}},
		oidc.Grant{Role: consumer, Repositories: []string{"base/*"}},
		oidc.Grant{Role: "custom", Repositories: []string{"new/*"}},
		oidc.Grant{Role: "absent", Repositories: []string{"x/*"}},
		oidc.Grant{Role: access.NamespaceOwner, Repositories: []string{"owned", "owned/*"}},
	)
	for name, tt := range map[string]struct {
		action access.Action
		on     access.Object
		want   bool
	}{
		"push to a granted path":          {access.Push, access.Object{Kind: access.Distribution, Name: "acme/app"}, true},
		"push below it":                   {access.Push, access.Object{Kind: access.Distribution, Name: "acme/app/x"}, true},
		"create the granted path":         {access.Create, access.Object{Kind: access.Distribution, Name: "acme/app", NamespaceExists: true}, true},
		"push to a sibling":               {access.Push, access.Object{Kind: access.Distribution, Name: "acme/app2"}, false},
		"push to the namespace":           {access.Push, access.Object{Kind: access.Distribution, Name: "acme"}, false},
		"sign in a push repository":       {access.Sign, access.Object{Kind: access.Repository, Name: "acme/app", Push: true}, true},
		"sign in a container repository":  {access.Sign, access.Object{Kind: access.Repository, Name: "acme/app"}, true},
		"sign elsewhere":                  {access.Sign, access.Object{Kind: access.Repository, Name: "base/x", Push: true}, false},
		"use the named service":           {access.UseKey, access.Object{Kind: access.SigningService, Name: "release"}, true},
		"use another service":             {access.UseKey, access.Object{Kind: access.SigningService, Name: "other"}, false},
		"assign the named service":        {access.AssignKey, access.Object{Kind: access.SigningService, Name: "release"}, false},
		"service with a granted name":     {access.UseKey, access.Object{Kind: access.SigningService, Name: "acme/app"}, false},
		"pull a private base image":       {access.Pull, access.Object{Kind: access.Distribution, Name: "base/x", Exists: true, Private: true}, true},
		"push a base image":               {access.Push, access.Object{Kind: access.Distribution, Name: "base/x"}, false},
		"pull private content":            {access.Pull, access.Object{Kind: access.Distribution, Name: "other/x", Exists: true, Private: true}, false},
		"pull public content":             {access.Pull, access.Object{Kind: access.Distribution, Name: "other/x", Exists: true}, true},
		"permission of a custom role":     {access.Modify, access.Object{Kind: access.Repository, Name: "new/x", Push: true}, true},
		"not of a custom role":            {access.Push, access.Object{Kind: access.Distribution, Name: "new/x"}, false},
		"role that does not exist":        {access.View, access.Object{Kind: access.Repository, Name: "x/y"}, false},
		"manage roles":                    {access.ManageRoles, access.Object{Kind: access.Repository, Name: "acme/app"}, false},
		"change as an owner":              {access.Change, access.Object{Kind: access.Repository, Name: "owned/app"}, true},
		"manage roles as an owner":        {access.ManageRoles, access.Object{Kind: access.Repository, Name: "owned/app"}, false},
		"manage roles on a namespace":     {access.ManageRoles, access.Object{Kind: access.Namespace, Name: "owned"}, false},
		"delete the namespace":            {access.Delete, access.Object{Kind: access.Namespace, Name: "acme"}, false},
		"administer":                      {access.Administer, access.Object{Kind: access.Server}, false},
		"create a user":                   {access.Create, access.Object{Kind: access.Accounts}, false},
		"object without a name":           {access.View, access.Object{Kind: access.Repository}, false},
		"view a task of somebody else":    {access.View, access.Object{Kind: access.Task, Creator: 8}, false},
		"cancel a task of its own":        {access.Change, access.Object{Kind: access.Task, Creator: 7}, true},
		"namespace of the account's name": {access.Push, access.Object{Kind: access.Distribution, Name: "oidc:app/x"}, false},
	} {
		g, err := of.Granted(t.Context(), account, tt.on.Kind, tt.on.Name)
		if err != nil {
			t.Fatal(err)
		}
		tt.on.Granted = g
		if got := access.Allow(&access.Caller{Account: account}, tt.action, tt.on); got != tt.want {
			t.Errorf("%s: %t, want %t", name, got, tt.want)
		}
	}
	for pair, want := range map[[2]string]bool{
		{"release", "acme/app"}: true, {"release", "base/x"}: false, {"other", "acme/app"}: false, {"", "acme/app"}: false,
	} {
		if got := of.SignsWith(account, pair[0], pair[1]); got != want {
			t.Errorf("SignsWith(%v) = %t, want %t", pair, got, want)
		}
	}
	creates := access.Object{Kind: access.Distribution, Name: "acme/app"}
	creates.Granted, _ = of.Granted(t.Context(), account, creates.Kind, creates.Name)
	if access.MayCreatePath(&access.Caller{Account: account}, creates) {
		t.Error("a rule without the permission to add namespaces creates one")
	}
}

// TestRightsOfOtherAccounts verifies that only the account of a configured rule has its rights.
func TestRightsOfOtherAccounts(t *testing.T) {
	t.Parallel()
	of, account := rights(t, oidc.Grant{Role: collaborator, Repositories: []string{"acme/*"}, SigningServices: []string{"release"}})
	for name, change := range map[string]func(*pulp.User){
		"local user with the name": func(u *pulp.User) { u.Kind = pulp.LocalUser },
		"robot with the name":      func(u *pulp.User) { u.Kind = pulp.Robot },
		"removed rule":             func(u *pulp.User) { u.Username = "oidc:removed" },
		"name without the prefix":  func(u *pulp.User) { u.Username = "app" },
	} {
		other := account
		change(&other)
		g, err := of.Granted(t.Context(), other, access.Repository, "acme/app")
		grants, grantsErr := of.Grants(t.Context(), other)
		if err != nil || grantsErr != nil || g != (access.Granted{}) || len(grants) > 0 {
			t.Errorf("%s: %v, %v, %v, %v", name, g, err, grants, grantsErr)
		}
	}
}

// TestGrants verifies the names of objects that the identity of a rule sees in lists.
func TestGrants(t *testing.T) {
	t.Parallel()
	of, account := rights(t,
		oidc.Grant{Role: collaborator, Repositories: []string{"acme/*"}, SigningServices: []string{"release"}},
		oidc.Grant{Role: collaborator, Repositories: []string{"acme/x"}, SigningServices: []string{"nightly"}},
		oidc.Grant{Role: consumer, Repositories: []string{"base/*"}},
		oidc.Grant{Role: "custom", Repositories: []string{"new/*"}},
	)
	v, err := access.NewDecider(nil, of).Viewer(t.Context(), &access.Caller{Account: account})
	if err != nil {
		t.Fatal(err)
	}
	acme := []string{"acme/*", "acme/x"}
	for kind, want := range map[access.Kind][]string{
		access.Repository:     acme,
		access.Distribution:   append(slices.Clone(acme), "base/*"),
		access.Remote:         acme,
		access.Namespace:      acme,
		access.SigningService: {"release", "nightly"},
		access.Task:           nil,
		access.Accounts:       nil,
	} {
		if got := v.Scope(kind, access.View); !slices.Equal(got.Granted, want) || got.Account != 0 {
			t.Errorf("Scope(%s) = %+v, want %v", kind, got, want)
		}
	}
	if got := v.Scope(access.Repository, access.Modify); !slices.Equal(got.Granted, acme) ||
		!slices.Equal(got.GrantedPush, append(slices.Clone(acme), "new/*")) {
		t.Errorf("Scope = %+v", got)
	}
}

// TestUnreadableRole verifies that a role that cannot be read is an error, not a denial.
func TestUnreadableRole(t *testing.T) {
	t.Parallel()
	of, account := rights(t, oidc.Grant{Role: "broken", Repositories: []string{"acme/*"}})
	if _, err := of.Granted(t.Context(), account, access.Repository, "acme/app"); err == nil {
		t.Error("Granted has no error")
	}
	if _, err := of.Grants(t.Context(), account); err == nil {
		t.Error("Grants has no error")
	}
}
