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
