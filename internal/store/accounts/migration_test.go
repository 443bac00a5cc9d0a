package accounts_test

import (
	"slices"
	"strconv"
	"testing"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/storetest"
)

// TestAccountsOfEarlierVersions migrates databases of earlier versions: users stay what they were. Staff are
// administrators, others own the namespace named like them, and nobody gains anything else.
func TestAccountsOfEarlierVersions(t *testing.T) {
	t.Parallel()
	for _, version := range []int64{8, 13} {
		t.Run("schema "+strconv.FormatInt(version, 10), func(t *testing.T) {
			t.Parallel()
			s := storetest.OpenAt(t, version)
			const account = `INSERT INTO account (username, password_hash, is_staff, is_active, created, updated) VALUES `
			const namespace = `INSERT INTO namespace (id, name, created, updated) VALUES `
			storetest.ExecAll(t, s,
				account+`('admin', 'hash admin', TRUE, TRUE, 1000000, 2000000)`, account+`('boss', 'hash boss', TRUE, FALSE, 1, 2)`,
				account+`('alice', 'hash alice', FALSE, TRUE, 3000000, 4000000)`, account+`('bob', 'hash bob', FALSE, FALSE, 1, 2)`,
				account+`('carol', 'hash carol', FALSE, TRUE, 1, 2)`, account+`('Not A Namespace', 'hash', FALSE, TRUE, 1, 2)`,
				namespace+`('00000000-0000-7000-8000-00000000000a', 'alice', 1, 1)`, namespace+`('00000000-0000-7000-8000-00000000000b', 'bob', 1, 1)`,
				namespace+`('00000000-0000-7000-8000-00000000000c', 'boss', 1, 1)`, namespace+`('00000000-0000-7000-8000-00000000000d', 'shared', 1, 1)`)
			if err := s.DB.Migrate(t.Context()); err != nil {
				t.Fatal(err)
			}
			type want struct{ staff, active, ownsOwn bool }
			users := map[string]pulp.User{}
			for name, w := range map[string]want{
				"admin": {staff: true, active: true}, "boss": {staff: true}, "alice": {active: true, ownsOwn: true}, "bob": {ownsOwn: true},
				"carol": {active: true}, "Not A Namespace": {active: true},
			} {
				u, err := s.Accounts.UserByName(t.Context(), name)
				if err != nil {
					t.Fatal(err)
				}
				users[name] = u
				if u.Staff != w.staff || u.Active != w.active || u.Kind != pulp.LocalUser || u.Source != "" {
					t.Errorf("%s after the migration: %+v, want %+v and a local user", name, u, w)
				}
				var everywhere, elsewhere int
				row := s.DB.Read().QueryRowContext(t.Context(), `
					SELECT COALESCE(SUM(CASE WHEN object = '' THEN 1 ELSE 0 END), 0), COALESCE(SUM(CASE WHEN object <> '' THEN 1 ELSE 0 END), 0)
					  FROM role_assignment WHERE account_id = $1`, u.ID)
				if err := row.Scan(&everywhere, &elsewhere); err != nil {
					t.Fatal(err)
				}
				if everywhere != 0 || (elsewhere == 1) != w.ownsOwn || elsewhere > 1 {
					t.Errorf("%s has %d roles everywhere and %d on objects, want the own namespace: %t", name, everywhere, elsewhere, w.ownsOwn)
				}
			}
			if u := users["alice"]; u.Hash != "hash alice" || u.Created.Unix() != 3 {
				t.Errorf("alice after the migration: %+v, want the former password and time of creation", u)
			}
			d := s.Accounts.NewDecider(nil)
			for _, tt := range []struct {
				user, path string
				want       bool
			}{
				{"alice", "alice/app", true}, {"alice", "shared/app", false}, {"alice", "boss/app", false}, {"alice", "carol/app", false},
				{"alice", "absent/app", false}, {"carol", "carol/app", true}, {"carol", "alice/app", false}, {"bob", "bob/app", false},
				{"boss", "boss/app", false}, {"admin", "shared/app", true}, {"admin", "absent/app", true},
			} {
				got, err := d.AllowPath(t.Context(), &access.Caller{Account: users[tt.user]}, access.Push, access.Object{Name: tt.path})
				if err != nil || got != tt.want {
					t.Errorf("%s may push to %s: %t, %v, want %t", tt.user, tt.path, got, err, tt.want)
				}
			}
		})
	}
}

// TestAssignmentsOfMigrationHaveIDs verifies that the migration gives assignments ids in the form of all others.
func TestAssignmentsOfMigrationHaveIDs(t *testing.T) {
	t.Parallel()
	s := storetest.OpenAt(t, 13)
	for i := range 20 {
		name := "user" + strconv.Itoa(i)
		storetest.ExecAll(t, s,
			`INSERT INTO account (username, password_hash, created, updated) VALUES ('`+name+`', '', 1, 1)`,
			`INSERT INTO namespace (id, name, created, updated) VALUES ('`+pulp.NewID()+`', '`+name+`', 1, 1)`)
	}
	if err := s.DB.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	ids, err := sqldb.Collect(t.Context(), s.DB.Read(), func(r sqldb.Scanner) (id string, err error) {
		err = r.Scan(&id)
		return id, err
	}, `SELECT id FROM role_assignment`)
	if err != nil || len(ids) != 20 {
		t.Fatalf("%d assignments, %v, want 20", len(ids), err)
	}
	for _, id := range ids {
		if !pulp.ValidUUID(id) {
			t.Errorf("the id %q is not a UUID", id)
		}
	}
}

// TestObjectsWithoutNamespaceKeepTheirOwner migrates repositories and remotes of users without a namespace.
func TestObjectsWithoutNamespaceKeepTheirOwner(t *testing.T) {
	t.Parallel()
	s := storetest.OpenAt(t, 13)
	const account = `INSERT INTO account (id, username, password_hash, is_staff, created, updated) VALUES `
	const repository = `INSERT INTO repository (id, type, name, created, updated) VALUES `
	const remote = `INSERT INTO remote (id, name, url, upstream_name, policy, created, updated) VALUES `
	storetest.ExecAll(t, s,
		account+`(7, 'carol', 'hash', FALSE, 1, 1)`, account+`(8, 'boss', 'hash', TRUE, 1, 1)`, account+`(9, 'dave', 'hash', FALSE, 1, 1)`,
		`INSERT INTO namespace (id, name, created, updated) VALUES ('00000000-0000-7000-8000-00000000000a', 'dave', 1, 1)`,
		repository+`('r1', 'container', 'carol', 1, 1)`, repository+`('r2', 'container-push', 'carol/app', 1, 1)`,
		repository+`('r3', 'container', 'carols/app', 1, 1)`, repository+`('r4', 'container', 'boss/app', 1, 1)`,
		repository+`('r5', 'container', 'dave/app', 1, 1)`,
		remote+`('m1', 'carol/hub', 'https://example.com', 'app', 'immediate', 1, 1)`,
		remote+`('m2', 'hub', 'https://example.com', 'app', 'immediate', 1, 1)`)
	if err := s.DB.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, err := sqldb.Collect(t.Context(), s.DB.Read(), func(r sqldb.Scanner) (text string, err error) {
		var id, object, role string
		err = r.Scan(&id, &object, &role)
		return id + " " + object + " " + role, err
	}, `SELECT a.account_id, a.object, r.name FROM role_assignment a JOIN role r ON r.id = a.role_id ORDER BY a.account_id, a.object`)
	want := []string{
		"7 remote:m1 " + access.RemoteOwner, "7 repository:r1 " + access.RepositoryOwner, "7 repository:r2 " + access.RepositoryOwner,
		"9 namespace:00000000-0000-7000-8000-00000000000a " + access.NamespaceOwner,
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("assignments %q, %v, want %q", got, err, want)
	}
}
