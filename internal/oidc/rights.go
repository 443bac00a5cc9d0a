package oidc

import (
	"context"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/pulp"
)

// accountPrefix begins the user names of accounts of rules. No other account may contain a colon.
const accountPrefix = "oidc:"

// Account returns the user name of the account of the rule.
func (r Rule) Account() string { return accountPrefix + r.Name }

// Roles reads the permissions of roles.
type Roles interface {
	// RolePermissions returns the permissions of a role; none if it does not exist.
	RolePermissions(ctx context.Context, name string) (access.Set, error)
}

// Rights are the rights of the accounts of rules. They are those of the rules in the configuration at each use. It
// implements access.RuleGrants.
type Rights struct {
	Verifier *Verifier
	Roles    Roles
}

// of returns the rule of an account. ok is false if the rule is no longer configured.
func (r *Rights) of(account pulp.User) (rule Rule, ok bool) {
	name, ok := strings.CutPrefix(account.Username, accountPrefix)
	if !ok || account.Kind != pulp.RuleIdentity {
		return Rule{}, false
	}
	return r.Verifier.Rule(name)
}

// byName are the kinds of objects whose names the patterns of grants match.
var byName = []access.Kind{access.Repository, access.Distribution, access.Remote, access.Namespace,
	access.PullThrough, access.PullThroughRemote}

// servicePermissions are the permissions on the signing services of a grant.
var servicePermissions = access.SetOf(access.ViewService, access.UseService)

// Granted implements access.RuleGrants. The permissions of a role apply to an object of a matching name whether they
// are permissions on the object, on its namespace or on all objects.
func (r *Rights) Granted(ctx context.Context, account pulp.User, kind access.Kind, name string) (access.Granted, error) {
	rule, ok := r.of(account)
	if !ok || name == "" {
		return access.Granted{}, nil
	}
	var all access.Set
	for _, g := range rule.Grants {
		switch {
		case kind == access.SigningService && slices.Contains(g.SigningServices, name):
			all = all.Or(servicePermissions)
		case slices.Contains(byName, kind) && g.Covers(name):
			set, err := r.role(ctx, g.Role)
			if err != nil {
				return access.Granted{}, err
			}
			all = all.Or(set)
		}
	}
	if kind == access.SigningService {
		return access.Granted{Object: all}, nil
	}
	return everywhere(all), nil
}

// everywhere returns the grant of permissions on one object, whatever they apply to otherwise.
func everywhere(s access.Set) access.Granted {
	return access.Granted{Everywhere: s, Namespace: s, Object: s, Serving: s}
}

// lasting are the permissions to give rights to other accounts, which would outlive the rule. A rule never has them.
var lasting = access.SetOf(
	access.ManageRolesNamespace, access.ManageRolesRepository, access.ManageRolesPushRepository,
	access.ManageRolesDistribution, access.ManageRolesRemote, access.ManageRolesPullThrough,
	access.ManageRolesPullThroughRemote,
)

// role returns the permissions of a role for a rule. Those of locked roles need no query.
func (r *Rights) role(ctx context.Context, name string) (all access.Set, err error) {
	if all = access.Locked(name); all == (access.Set{}) {
		all, err = r.Roles.RolePermissions(ctx, name)
	}
	return all.Without(lasting), err
}

// SignsWith implements access.RuleGrants.
func (r *Rights) SignsWith(account pulp.User, service, repository string) bool {
	rule, ok := r.of(account)
	return ok && slices.ContainsFunc(rule.Grants, func(g Grant) bool {
		return slices.Contains(g.SigningServices, service) && g.Covers(repository)
	})
}

// Grants implements access.RuleGrants.
func (r *Rights) Grants(ctx context.Context, account pulp.User) ([]access.NameGrant, error) {
	rule, ok := r.of(account)
	if !ok {
		return nil, nil
	}
	var grants []access.NameGrant
	for _, g := range rule.Grants {
		set, err := r.role(ctx, g.Role)
		if err != nil {
			return nil, err
		}
		grants = append(grants,
			access.NameGrant{Permissions: set, Patterns: g.Repositories},
			access.NameGrant{Permissions: servicePermissions, Patterns: g.SigningServices, Services: true})
	}
	return grants, nil
}
