package access

import (
	"context"

	"github.com/countersign/countersign/internal/pulp"
)

// Viewer restricts queries to the objects on which a caller has a permission. A nil Viewer is an administrator, who has
// all of them. Decider.Viewer makes it; package internal/store/record writes its conditions.
type Viewer struct {
	caller     *Caller
	everywhere Set
	byName     []NameGrant // of the identity of a rule
}

// Viewer returns the viewer for the queries of a caller, with the permissions on all objects that the database has now.
func (d *Decider) Viewer(ctx context.Context, c *Caller) (*Viewer, error) {
	if c == nil || !c.Account.Active {
		return &Viewer{caller: &Caller{}}, nil
	}
	if c.Account.Staff {
		if !c.Token.Limited() {
			return nil, nil
		}
		return &Viewer{caller: c}, nil
	}
	v := &Viewer{caller: c}
	var err error
	switch {
	case c.Account.Kind != pulp.RuleIdentity:
		var g Granted
		g, _, err = d.grants.Granted(ctx, c.Account.ID, Keys{})
		v.everywhere = g.Everywhere
	case d.rules != nil:
		v.byName, err = d.rules.Grants(ctx, c.Account)
	}
	return v, err
}

// SeesAllRepositories reports whether the viewer has the permission to view every repository, as administrators have.
func (v *Viewer) SeesAllRepositories() bool {
	s := v.Scope(Repository, View)
	return s.All && s.AllPush && s.Only == nil
}

// Scope describes the objects of one kind on which a caller has the permission for an action, beside public ones: all
// of them, or those that the other fields describe. Only objects whose names match Only are among them.
type Scope struct {
	// None is set if there are none. All is set if they are all objects of the kind, except push repositories; AllPush
	// if they are all push repositories.
	None, All, AllPush bool
	// AllCached is set if the objects that pulls of pull-through caches have created are among them.
	AllCached bool
	// Account has the assignments; 0 for none. Creator is the account whose tasks are among the objects.
	Account, Creator int64
	// Rule has the permissions each of which suffices, where they are assigned. Rule.Everywhere does not count.
	Rule Rule
	// Granted are patterns of the names of objects on which the rule of a CI token gives a permission, GrantedPush
	// those of push repositories.
	Granted, GrantedPush []string
	// Only are patterns of names to which an API token is limited; nil: all names.
	Only []string
}

// Scope returns the objects of a kind on which the viewer has the permission for an action. The absent namespace of a
// user's own name has no objects that its name alone gives the user (see Caller.own).
func (v *Viewer) Scope(kind Kind, action Action) Scope {
	if v == nil {
		return Scope{All: true, AllPush: true}
	}
	c, r := v.caller, rules[ruleKey{kind, action}]
	s := Scope{Account: c.Account.ID, Creator: c.Account.ID, Rule: ruleOf(kind, action)}
	if !c.Account.Active || !c.Token.permitsUse(action) {
		return Scope{None: true}
	}
	if c.Token != nil && named(kind) {
		s.Only = c.Token.Patterns
	}
	one := r.object.Or(r.namespace).Or(r.everywhere)
	push := r.object.Or(r.pushObject).Or(r.pushNamespace).Or(r.everywhere)
	s.All = c.Account.Staff || v.everywhere.HasAny(one)
	s.AllPush = s.All
	s.AllCached = v.everywhere.HasAny(r.cache)
	if kind == Repository {
		s.AllPush = c.Account.Staff || v.everywhere.HasAny(push)
	}
	if c.Account.Kind == pulp.RuleIdentity {
		s.Account = 0
		s.Granted = v.names(kind, one)
		s.GrantedPush = v.names(kind, push.Or(r.serving))
	}
	return s
}

// names returns the patterns of the names of objects on which the identity of a rule has one of some permissions.
func (v *Viewer) names(kind Kind, some Set) []string {
	var patterns []string
	for _, g := range v.byName {
		if g.Permissions.HasAny(some) && g.Services == (kind == SigningService) && (g.Services || inNamespaces[kind]) {
			patterns = append(patterns, g.Patterns...)
		}
	}
	return patterns
}

// named reports whether API tokens are limited to names of objects of a kind.
func named(kind Kind) bool { return kind != SigningService && kind != Task }

func ruleOf(kind Kind, action Action) Rule {
	for _, r := range Rules {
		if r.Kind == kind && r.Action == action {
			return r
		}
	}
	return Rule{Kind: kind, Action: action}
}
