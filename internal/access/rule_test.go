package access_test

import (
	"context"
	"testing"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/pulp"
)

// assigned gives every account the owner's permissions in every namespace.
type assigned struct{}

func (assigned) Granted(context.Context, int64, access.Keys) (access.Granted, bool, error) {
	return access.Granted{Namespace: access.Locked(access.NamespaceOwner)}, true, nil
}

// ruled gives the identities of rules the right to view repositories.
type ruled struct{}

func (ruled) Granted(context.Context, pulp.User, access.Kind, string) (access.Granted, error) {
	return access.Granted{Object: access.SetOf(access.ViewRepository)}, nil
}

func (ruled) SignsWith(_ pulp.User, service, repository string) bool {
	return service == "release" && repository == "acme/app"
}

func (ruled) Grants(context.Context, pulp.User) ([]access.NameGrant, error) { return nil, nil }

// TestRuleGrants verifies that the rule alone decides for the identity of a rule, and assignments alone for others.
func TestRuleGrants(t *testing.T) {
	t.Parallel()
	repo := access.Object{Kind: access.Repository, Name: "acme/app"}
	path := access.Object{Name: "acme/app"}
	for name, tt := range map[string]struct {
		kind               pulp.AccountKind
		rules              access.RuleGrants
		view, modify, push bool
	}{
		"user":                   {kind: pulp.LocalUser, rules: ruled{}, view: true, modify: true, push: true},
		"identity of a rule":     {kind: pulp.RuleIdentity, rules: ruled{}, view: true},
		"identity without rules": {kind: pulp.RuleIdentity},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := access.NewDecider(assigned{}, tt.rules)
			c := caller("oidc:app", tt.kind)
			view, viewErr := d.Allow(t.Context(), c, access.View, repo, "1")
			modify, modifyErr := d.Allow(t.Context(), c, access.Modify, repo, "1")
			push, pushErr := d.AllowPath(t.Context(), c, access.Push, path)
			if viewErr != nil || modifyErr != nil || pushErr != nil || view != tt.view || modify != tt.modify || push != tt.push {
				t.Errorf("view %t, modify %t, push %t, want %+v", view, modify, push, tt)
			}
		})
	}
}

// TestRuleSignsWith verifies that the identity of a rule uses a signing service for the repositories of its grant only,
// and a service that is assigned to the repository.
func TestRuleSignsWith(t *testing.T) {
	t.Parallel()
	d := access.NewDecider(assigned{}, serviceRules{})
	c := caller("oidc:app", pulp.RuleIdentity)
	for name, tt := range map[string]struct {
		repository, service, own string
		want                     bool
	}{
		"granted":            {repository: "acme/app", service: "release", want: true},
		"another repository": {repository: "acme/other", service: "release"},
		"another service":    {repository: "acme/app", service: "test"},
		"assigned service":   {repository: "acme/other", service: "test", own: "test", want: true},
	} {
		repo := pulp.Repository{Name: tt.repository, SigningServiceID: tt.own, SigningAssigned: pulp.AssignedByAdmin}
		got, err := d.SignsWith(t.Context(), c, pulp.SigningUse{}, repo, pulp.SigningService{ID: tt.service, Name: tt.service})
		if err != nil || got != tt.want {
			t.Errorf("%s: %t, %v, want %t", name, got, err, tt.want)
		}
	}
}

// serviceRules gives the identities of rules the right to use every signing service, for some repositories.
type serviceRules struct{ ruled }

func (serviceRules) Granted(context.Context, pulp.User, access.Kind, string) (access.Granted, error) {
	return access.Granted{Object: access.SetOf(access.UseService)}, nil
}
