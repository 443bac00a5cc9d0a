package access

import (
	"context"

	"github.com/countersign/countersign/internal/pulp"
)

// cacheSize is the number of pairs of an account and a path whose grants are cached.
const cacheSize = 50_000

// Keys locate the assignments that concern an object.
type Keys struct {
	Namespace  string // name
	BasePath   string // of a distribution
	Repository string // id: the distributions that serve it
	// Cached is the id of a distribution, or of the repository of distributions: the pull-through distributions that
	// created these.
	Cached  string
	Objects []string // Key of each object itself
}

// Key returns the stored name of an object, on which roles are assigned.
func Key(kind Kind, id string) string { return string(kind) + ":" + id }

// Grants reads the permissions that assigned roles give.
type Grants interface {
	// Granted returns the permissions that an account and its groups have by assignments to the objects of keys, and
	// whether the namespace of keys exists.
	Granted(ctx context.Context, accountID int64, keys Keys) (g Granted, namespaceExists bool, err error)
}

// RuleGrants are the permissions of identities of rules for CI tokens: accounts of the kind RuleIdentity. Roles that
// are assigned to them, or that they get as creators, have no effect.
type RuleGrants interface {
	// Granted returns the permissions of the identity of a rule on the object with a name.
	Granted(ctx context.Context, account pulp.User, kind Kind, name string) (Granted, error)
	// SignsWith reports whether the identity of a rule may use a signing service for a repository.
	SignsWith(account pulp.User, service, repository string) bool
	// Grants returns all that the identity of a rule is granted.
	Grants(ctx context.Context, account pulp.User) ([]NameGrant, error)
}

// NameGrant are permissions on all objects with certain names: repositories, distributions, remotes and namespaces, or
// signing services.
type NameGrant struct {
	Permissions Set
	Patterns    []string // of names (glob.MatchName)
	Services    bool
}

// Decider reads the permissions of callers and decides with Allow. It is safe for concurrent use.
type Decider struct {
	grants Grants
	rules  RuleGrants // may be nil
	paths  *Cache[pathKey, pathGrants]
}

type pathKey struct {
	account int64
	path    string
}

type pathGrants struct {
	granted         Granted
	namespaceExists bool
}

// NewDecider returns a Decider. rules may be nil.
func NewDecider(grants Grants, rules RuleGrants) *Decider {
	return &Decider{grants: grants, rules: rules, paths: NewCache[pathKey, pathGrants](cacheSize)}
}

// Purge empties the cache. Call it when accounts, roles or assignments have changed.
func (d *Decider) Purge() { d.paths.Purge() }

// Allow reads what the caller's roles give on an object and reports whether the caller may perform an action on it. It
// sets on.Granted and on.NamespaceExists itself. id is the id of an object that exists; empty for others.
func (d *Decider) Allow(ctx context.Context, c *Caller, action Action, on Object, id string) (bool, error) {
	on, err := d.Load(ctx, c, on, id)
	return err == nil && Allow(c, action, on), err
}

// AllowAll reports whether the caller may perform all of some actions on an object; see Allow.
func (d *Decider) AllowAll(ctx context.Context, c *Caller, on Object, id string, actions ...Action) (bool, error) {
	on, err := d.Load(ctx, c, on, id)
	if err != nil {
		return false, err
	}
	for _, action := range actions {
		if !Allow(c, action, on) {
			return false, nil
		}
	}
	return true, nil
}

// Load returns the object with its Granted and NamespaceExists set, as the database has them now.
func (d *Decider) Load(ctx context.Context, c *Caller, on Object, id string) (Object, error) {
	if c == nil || c.Account.Staff && !c.Token.Limited() { // the decision depends on no permission
		return on, nil
	}
	keys := Keys{}
	if inNamespaces[on.Kind] {
		keys.Namespace = pulp.NamespaceOf(on.Name)
	}
	if id != "" && on.Kind != Namespace {
		keys.Objects = []string{Key(on.Kind, id)}
	}
	if on.Kind == Repository {
		keys.Repository = id
	}
	if on.Kind == Repository || on.Kind == Distribution {
		keys.Cached = id
	}
	var err error
	on.Granted, on.NamespaceExists, err = d.granted(ctx, c, on, keys)
	return on, err
}

// granted returns the permissions of a caller on an object: by the roles that are assigned, or by a rule.
func (d *Decider) granted(ctx context.Context, c *Caller, on Object, keys Keys) (g Granted, namespaceExists bool, err error) {
	g, namespaceExists, err = d.grants.Granted(ctx, c.Account.ID, keys)
	if err != nil || c.Account.Kind != pulp.RuleIdentity {
		return g, namespaceExists, err
	}
	if d.rules == nil {
		return Granted{}, namespaceExists, nil
	}
	g, err = d.rules.Granted(ctx, c.Account, on.Kind, on.Name)
	return g, namespaceExists, err
}

// AllowPath is Allow for the distribution with the base path on.Name, which need not exist. It may use grants that are
// up to CacheLife old, except to deny: new grants have effect at once. The queries do not depend on whether the path
// exists.
func (d *Decider) AllowPath(ctx context.Context, c *Caller, action Action, on Object) (bool, error) {
	if d.AllowCached(c, action, on) {
		return true, nil
	}
	on, err := d.LoadPath(ctx, c, on)
	return err == nil && Allow(c, action, on), err
}

// AllowCached is AllowPath without queries. It also denies what it would have to read.
func (d *Decider) AllowCached(c *Caller, action Action, on Object) bool {
	on.Kind = Distribution
	switch on.NamespaceExists = true; { // without grants: public content, and administrators
	case Allow(c, action, on):
		return true
	case c == nil:
		return false
	}
	kept, ok := d.paths.Get(pathKey{c.Account.ID, on.Name})
	on.Granted, on.NamespaceExists = kept.granted, kept.namespaceExists
	return ok && Allow(c, action, on)
}

// LoadPath returns the distribution with the base path on.Name with its Granted and NamespaceExists set, as the
// database has them now.
func (d *Decider) LoadPath(ctx context.Context, c *Caller, on Object) (Object, error) {
	on.Kind = Distribution
	if c == nil {
		return on, nil
	}
	read, err := d.paths.Read(pathKey{c.Account.ID, on.Name}, func() (pathGrants, error) {
		keys := Keys{Namespace: pulp.NamespaceOf(on.Name), BasePath: on.Name}
		granted, exists, err := d.granted(ctx, c, on, keys)
		return pathGrants{granted, exists}, err
	})
	on.Granted, on.NamespaceExists = read.granted, read.namespaceExists
	return on, err
}
