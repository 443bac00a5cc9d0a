package accounts_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/accounts"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/storetest"
)

// objects are objects with their ids.
type objects map[access.Kind]map[string]access.Object

// makeObjects fills a store with objects in the namespaces a, a-b (a name that begins with that of another) and,
// without a namespace of that name, c.
func makeObjects(t *testing.T, s *store.Store) objects {
	t.Helper()
	all := objects{}
	add := func(id string, on access.Object) {
		if all[on.Kind] == nil {
			all[on.Kind] = map[string]access.Object{}
		}
		all[on.Kind][id] = on
	}
	for i, path := range []string{"a/app", "a/tool", "a-b/app"} {
		to := storetest.Target(t, s, path)
		if i == 1 {
			if err := s.Catalog.SetPrivate(t.Context(), path, true); err != nil {
				t.Fatal(err)
			}
			to.Distribution.Private = true
		}
		add(to.Repository.ID, access.OfRepository(to.Repository))
		add(to.Distribution.ID, access.OfDistribution(to.Distribution))
		if i != 1 {
			add(to.Distribution.NamespaceID, access.OfNamespace(pulp.Namespace{Name: pulp.NamespaceOf(path)}, true))
		}
	}
	for _, name := range []string{"a", "a/lib", "a-b/lib", "a0/x", "c", "c/lib", "c.d/lib"} {
		r, err := s.Catalog.CreateRepository(t.Context(), pulp.Repository{Type: pulp.Container, Name: name}, 0)
		if err != nil {
			t.Fatal(err)
		}
		m, err := s.Catalog.CreateRemote(t.Context(), pulp.Remote{Name: name, Policy: pulp.Immediate}, 0)
		if err != nil {
			t.Fatal(err)
		}
		add(r.ID, access.OfRepository(r))
		add(m.ID, access.OfRemote(m))
	}
	for id, on := range all[access.Repository] {
		if on.Name == "a/lib" {
			d, err := s.Catalog.CreateDistribution(t.Context(), nil, pulp.Distribution{Name: "a-b/lib", BasePath: "a-b/lib", RepositoryID: id}, 0)
			if err != nil {
				t.Fatal(err)
			}
			add(d.ID, access.OfDistribution(d))
		}
	}
	for _, name := range []string{"one", "two"} {
		v := storetest.AddService(t, s, name)
		add(v.ID, access.OfService(v))
	}
	return all
}

// TestScopeIsThatOfAllow assigns random roles of an account, of its groups and of others, on random objects, and
// compares for each kind and action the objects that the query of a viewer finds with those for which access.Allow
// permits it.
func TestScopeIsThatOfAllow(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	all := makeObjects(t, s)
	c, other, admin := user(t, s, "c"), user(t, s, "other"), user(t, s, "admin")
	admin.Staff = true
	storetest.ExecAll(t, s,
		`INSERT INTO account_group (id, name, created, updated) VALUES (7, 'team', 1, 1), (8, 'others', 1, 1)`,
		fmt.Sprintf(`INSERT INTO account_group_member (group_id, account_id) VALUES (7, %d), (8, %d)`, c.ID, other.ID))
	for _, p := range access.Permissions {
		storetest.Exec(t, s, `INSERT INTO role (id, name, created, updated) VALUES ($1, $1, 1, 1)`, p)
		storetest.Exec(t, s, `INSERT INTO role_permission (role_id, permission) VALUES ($1, $1)`, p)
	}
	keys := []string{""}
	for kind, some := range all {
		for id := range some {
			keys = append(keys, access.Key(kind, id))
		}
	}
	slices.Sort(keys)
	random := rand.New(rand.NewPCG(1, 2))
	d := s.Accounts.NewDecider(ruleOfTest{})
	callers := []*access.Caller{
		{Account: c}, {Account: other}, {Account: admin}, {Account: pulp.User{ID: c.ID, Username: "c", Kind: pulp.Robot, Active: true}},
		{Account: pulp.User{ID: 1000, Username: "oidc:x", Kind: pulp.RuleIdentity, Active: true}},
		{Account: c, Token: &access.Token{Patterns: []string{"a/*", "c"}}},
		{Account: admin, Token: &access.Token{Patterns: []string{"a/t*l", "one"}, Actions: []access.Use{access.UsePull}}},
		{Account: admin, Token: &access.Token{Patterns: []string{}}},
		{Account: pulp.User{ID: c.ID, Username: "c"}},
		{Account: c, Token: &access.Token{Actions: []access.Use{access.UsePush}}},
	}
	for round := range 12 {
		storetest.ExecAll(t, s, `DELETE FROM role_assignment`, `DELETE FROM namespace WHERE name = 'c'`)
		if round%3 == 0 {
			storetest.ExecAll(t, s, `INSERT INTO namespace (id, name, created, updated) VALUES ('nc', 'c', 1, 1)`)
		}
		for range round * 3 {
			assignRandomly(t, s, random, keys, c, other)
		}
		for i, caller := range callers {
			for kind := range all {
				for _, action := range []access.Action{access.View, access.Pull, access.Modify, access.Change, access.UseKey} {
					compareScope(t, s, d, caller, all[kind], kind, action, fmt.Sprintf("round %d, caller %d", round, i))
				}
			}
		}
	}
}

// ruleOfTest is a rule for CI tokens that lets its identities view and pull a/*.
type ruleOfTest struct{}

func (ruleOfTest) set() access.Set {
	return access.SetOf(access.ViewPushRepository, access.PullDistribution, access.InNamespaceViewDistribution)
}

func (r ruleOfTest) Granted(_ context.Context, _ pulp.User, kind access.Kind, name string) (access.Granted, error) {
	switch {
	case kind == access.SigningService && name == "two":
		return access.Granted{Object: access.SetOf(access.UseService)}, nil
	case kind == access.SigningService || pulp.NamespaceOf(name) != "a" || name == "a":
		return access.Granted{}, nil
	}
	return access.Granted{Everywhere: r.set(), Namespace: r.set(), Object: r.set(), Serving: r.set()}, nil
}

func (r ruleOfTest) Grants(context.Context, pulp.User) ([]access.NameGrant, error) {
	return []access.NameGrant{
		{Permissions: r.set(), Patterns: []string{"a/*"}},
		{Permissions: access.SetOf(access.UseService), Patterns: []string{"two"}, Services: true},
	}, nil
}

// assignRandomly assigns a random locked role.
func assignRandomly(t *testing.T, s *store.Store, random *rand.Rand, keys []string, who ...pulp.User) {
	t.Helper()
	role := access.LockedRoles[random.IntN(len(access.LockedRoles))].Name
	if random.IntN(2) == 0 { // a role with one permission
		role = string(access.Permissions[random.IntN(len(access.Permissions))])
	}
	key := keys[random.IntN(len(keys))]
	if random.IntN(3) == 0 {
		storetest.Exec(t, s, `INSERT INTO role_assignment (id, role_id, group_id, object, created, updated)
			SELECT $1, id, $2, $3, 1, 1 FROM role WHERE name = $4 ON CONFLICT DO NOTHING`,
			pulp.NewID(), 7+random.IntN(2), key, role)
		return
	}
	if err := s.DB.InTx(t.Context(), func(x *sqldb.Tx) error {
		return accounts.Assign(x, who[random.IntN(len(who))].ID, role, key)
	}); err != nil {
		t.Fatal(err)
	}
}

// compareScope compares the objects that a viewer's query finds with those that Allow permits.
func compareScope(
	t *testing.T, s *store.Store, d *access.Decider, c *access.Caller, of map[string]access.Object, kind access.Kind,
	action access.Action, description string,
) {
	t.Helper()
	viewer, err := d.Viewer(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	args := &record.Args{}
	query := record.Permitted{Viewer: viewer, Arg: args.Add}.IDs(kind, action)
	found, err := sqldb.Collect(t.Context(), s.DB.ReadComposed(), sqldb.ScanString, query, args.Values...)
	if err != nil {
		t.Fatalf("%s, %s %s: %v\n%s", description, action, kind, err, query)
	}
	for id, on := range of {
		on.Private = true // without what everybody may do
		want, err := d.Allow(t.Context(), c, action, on, id)
		if err != nil {
			t.Fatal(err)
		}
		if got := slices.Contains(found, id); got != want {
			t.Errorf("%s (%s): %s of %s %s: found %t, want %t\n%s\n%v", description, c.Account.Username, action, kind, on.Name, got,
				want, query, args.Values)
		}
	}
}

// SignsWith implements access.RuleGrants.
func (ruleOfTest) SignsWith(pulp.User, string, string) bool { return false }
