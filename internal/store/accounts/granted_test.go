package accounts_test

import (
	"maps"
	"testing"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/accounts"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/storetest"
)

// TestLockedRolesAreStored compares the roles that the migration stores with those of the program.
func TestLockedRolesAreStored(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	stored := map[string]access.Set{}
	rows, err := sqldb.Collect(t.Context(), s.DB.Read(), func(r sqldb.Scanner) (v [2]string, err error) {
		err = r.Scan(&v[0], &v[1])
		return v, err
	}, `SELECT r.name, p.permission FROM role r JOIN role_permission p ON p.role_id = r.id WHERE r.locked`)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		if !access.Known(access.Permission(r[1])) {
			t.Errorf("role %s has the unknown permission %s", r[0], r[1])
		}
		stored[r[0]] = stored[r[0]].Or(access.SetOf(access.Permission(r[1])))
	}
	want := map[string]access.Set{}
	for _, r := range access.LockedRoles {
		want[r.Name] = access.SetOf(r.Permissions...)
	}
	if !maps.Equal(stored, want) {
		t.Errorf("the database has the roles %v, want %v", stored, want)
	}
}

// TestGranted reads the permissions of direct assignments and of those of groups, each where it applies.
func TestGranted(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	to := storetest.Target(t, s, "acme/app")
	alice, bob := user(t, s, "alice"), user(t, s, "bob")
	assign := func(role, object string) {
		t.Helper()
		if err := s.DB.InTx(t.Context(), func(x *sqldb.Tx) error { return accounts.Assign(x, alice.ID, role, object) }); err != nil {
			t.Fatal(err)
		}
	}
	namespace := access.Key(access.Namespace, to.Distribution.NamespaceID)
	assign("container.containerremote_viewer", "")
	assign("container.containernamespace_consumer", namespace)
	assign("container.containernamespace_consumer", namespace) // has no effect
	assign("container.containerdistribution_collaborator", access.Key(access.Distribution, to.Distribution.ID))
	assign("container.containerrepository_viewer", access.Key(access.Repository, to.Repository.ID))
	read := func(who pulp.User, keys access.Keys, want access.Granted, wantNamespace bool) {
		t.Helper()
		got, exists, err := s.Accounts.Granted(t.Context(), who.ID, keys)
		if err != nil || got != want || exists != wantNamespace {
			t.Errorf("Granted(%s, %+v) = %v, %t, %v, want %v, %t", who.Username, keys, got, exists, err, want, wantNamespace)
		}
	}
	remotes := access.Locked("container.containerremote_viewer")
	all := access.Granted{
		Everywhere: remotes, Namespace: access.Locked("container.containernamespace_consumer"),
		Object: access.Locked("container.containerdistribution_collaborator"),
	}
	read(alice, access.Keys{Namespace: "acme", BasePath: "acme/app"}, all, true)
	read(alice, access.Keys{Namespace: "other", BasePath: "other/app"}, access.Granted{Everywhere: remotes}, false)
	read(alice, access.Keys{
		Namespace: "acme", Repository: to.Repository.ID, Objects: []string{access.Key(access.Repository, to.Repository.ID)},
	}, access.Granted{
		Everywhere: remotes, Namespace: all.Namespace, Serving: all.Object,
		Object: access.Locked("container.containerrepository_viewer"),
	}, true)
	read(bob, access.Keys{Namespace: "acme", BasePath: "acme/app"}, access.Granted{}, true)

	if err := s.DB.InTx(t.Context(), func(x *sqldb.Tx) error {
		_, err := x.Exec(`INSERT INTO account_group (id, name, created, updated) VALUES (7, 'team', 1, 1)`)
		if err == nil {
			_, err = x.Exec(`INSERT INTO account_group_member (group_id, account_id) VALUES (7, $1)`, bob.ID)
		}
		if err == nil {
			_, err = x.Exec(`INSERT INTO role_assignment (id, role_id, group_id, object, created, updated)
				SELECT 'x', id, 7, $1, 1, 1 FROM role WHERE name = $2`, namespace, access.NamespaceOwner)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	read(bob, access.Keys{Namespace: "acme"}, access.Granted{Namespace: access.Locked(access.NamespaceOwner)}, true)
}

// TestAssignmentsEndWithObjects deletes an object: no assignment on it is left.
func TestAssignmentsEndWithObjects(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	to := storetest.Target(t, s, "acme/app")
	alice := user(t, s, "alice")
	object := access.Key(access.Distribution, to.Distribution.ID)
	if err := s.DB.InTx(t.Context(), func(x *sqldb.Tx) error {
		return accounts.Assign(x, alice.ID, access.DistributionOwner, object)
	}); err != nil {
		t.Fatal(err)
	}
	left := func() (n int) {
		t.Helper()
		if err := s.DB.Read().QueryRowContext(t.Context(), `SELECT COUNT(*) FROM role_assignment WHERE object = $1`, object).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if left() != 1 {
		t.Fatal("no assignment was made")
	}
	if err := s.Catalog.DeleteDistribution(t.Context(), nil, to.Distribution.ID); err != nil {
		t.Fatal(err)
	}
	if n := left(); n != 0 {
		t.Errorf("%d assignments are left on a deleted distribution", n)
	}
}

// TestChangesAreAnnounced counts the calls of a function that OnChange registered.
func TestChangesAreAnnounced(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	calls := 0
	s.Accounts.OnChange(func() { calls++ })
	user(t, s, "alice")
	if calls != 1 {
		t.Errorf("%d announcements of one change", calls)
	}
}

func user(t *testing.T, s *store.Store, name string) pulp.User {
	t.Helper()
	u, err := s.Accounts.PutUser(t.Context(), name, "hash", false, true)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
