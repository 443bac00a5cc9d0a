package accounts_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/accounts"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/storetest"
)

// memberships returns the groups of an account as group/source.
func memberships(t *testing.T, s *store.Store, id int64) []string {
	t.Helper()
	names, err := sqldb.Collect(t.Context(), s.DB.Read(), sqldb.ScanString, `
		SELECT g.name || '/' || m.source FROM account_group_member m JOIN account_group g ON g.id = m.group_id
		 WHERE m.account_id = $1`, id)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

// TestPutExternal verifies that a confirmation creates an account and updates it, with the memberships of its source
// only.
func TestPutExternal(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	now := time.Now().Truncate(time.Microsecond)
	s.DB.SetClock(func() time.Time { return now })
	var announced int
	s.Accounts.OnChange(func() { announced++ })
	e := accounts.External{
		Source: "ldap", ID: "entryuuid=1", Name: "alice", FirstName: "Alice", LastName: "Liddell", Email: "a@example.com",
		Groups: []string{"dev", "ops"},
	}
	put := func(id int64, e accounts.External, want accounts.Change) pulp.User {
		t.Helper()
		before := announced
		u, change, err := s.Accounts.PutExternal(t.Context(), id, e)
		if err != nil || change != want || (announced > before) != (want != accounts.Unchanged) {
			t.Fatalf("PutExternal(%+v) = %+v, %q, %v, %d announcements; want %q", e, u, change, err, announced-before, want)
		}
		return u
	}
	made := put(0, e, accounts.Created)
	if made.Username != "alice" || made.Kind != pulp.ExternalUser || made.Source != "ldap" || made.ExternalID != e.ID || made.Hash != "" ||
		!made.Active || made.Staff || made.FirstName != "Alice" || made.LastName != "Liddell" || made.Email != e.Email ||
		!made.Checked.Equal(now) {
		t.Errorf("the new account: %+v", made)
	}
	storetest.ExecAll(t, s, `INSERT INTO account_group (name, created, updated) VALUES ('manual', 0, 0)`,
		`INSERT INTO account_group_member (group_id, account_id, source) SELECT g.id, a.id, '' FROM account_group g, account a
		  WHERE g.name IN ('manual', 'dev') AND a.username = 'alice'`)

	now = now.Add(30 * time.Second)
	if u := put(made.ID, e, accounts.Unchanged); !u.Checked.Equal(made.Checked) {
		t.Errorf("a confirmation after 30 s was written: %v", u.Checked)
	}
	now = now.Add(30 * time.Second)
	if u := put(0, e, accounts.Unchanged); !u.Checked.Equal(now) || !u.Updated.Equal(made.Updated) {
		t.Errorf("a confirmation after a minute: %+v", u)
	}
	e.Groups, e.Staff, e.FirstName = []string{"ops", "root"}, true, "Alicia"
	changed := put(made.ID, e, accounts.Updated)
	if changed.ID != made.ID || !changed.Staff || changed.FirstName != "Alicia" || !changed.Updated.Equal(now) {
		t.Errorf("the changed account: %+v", changed)
	}
	want := []string{"dev/", "manual/", "ops/ldap", "root/ldap"}
	if got := memberships(t, s, made.ID); !slices.Equal(got, want) {
		t.Errorf("memberships %q, want %q", got, want)
	}
	e.Staff, e.Groups = false, nil
	if u := put(0, e, accounts.Updated); u.Staff {
		t.Error("the administrator flag stays")
	}
	e.Name = "alice.smith"
	if u := put(0, e, accounts.Updated); u.ID != made.ID || u.Username != "alice.smith" {
		t.Errorf("after a change of the name: %+v", u)
	}
}

// TestRemoveExternal verifies that an account is inactive while its source does not have the person, independently of
// the flag that administrators set.
func TestRemoveExternal(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	e := accounts.External{Source: "htpasswd", Name: "alice", Groups: []string{"dev"}}
	u, _, err := s.Accounts.PutExternal(t.Context(), 0, e)
	if err != nil {
		t.Fatal(err)
	}
	active := func() bool {
		t.Helper()
		u, err := s.Accounts.UserByName(t.Context(), "alice")
		if err != nil {
			t.Fatal(err)
		}
		return u.Active
	}
	for i, want := range []accounts.Change{accounts.Removed, accounts.Unchanged} {
		if change, err := s.Accounts.RemoveExternal(t.Context(), u.ID); err != nil || change != want || active() {
			t.Errorf("removal %d: %q, %v, active %t", i, change, err, active())
		}
	}
	if got, change, err := s.Accounts.PutExternal(t.Context(), u.ID, e); err != nil || change != accounts.Updated || !got.Active || !active() {
		t.Errorf("PutExternal of the person who is back = %+v, %q, %v", got, change, err)
	}
	storetest.ExecAll(t, s, `UPDATE account SET is_active = FALSE`)
	if got, _, err := s.Accounts.PutExternal(t.Context(), 0, e); err != nil || got.Active {
		t.Errorf("a confirmation enables an account that an administrator disabled: %+v, %v", got, err)
	}
	local, err := s.Accounts.PutUser(t.Context(), "bob", "hash", false, true)
	if err != nil {
		t.Fatal(err)
	}
	if change, err := s.Accounts.RemoveExternal(t.Context(), local.ID); err != nil || change != accounts.Unchanged {
		t.Errorf("RemoveExternal of a local user = %q, %v", change, err)
	}
}

// TestPutExternalTakesNoOtherAccount verifies that a source cannot take over an account by its name.
func TestPutExternalTakesNoOtherAccount(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	if _, err := s.Accounts.PutUser(t.Context(), "admin", "hash", true, true); err != nil {
		t.Fatal(err)
	}
	for _, e := range []accounts.External{
		{Source: "ldap", ID: "entryuuid=1", Name: "alice"}, {Source: "ldap", ID: "entryuuid=2", Name: "bob"},
		{Source: "htpasswd", Name: "carol"}, {Source: "ldap", Name: "dave"},
	} {
		if _, _, err := s.Accounts.PutExternal(t.Context(), 0, e); err != nil {
			t.Fatal(err)
		}
	}
	for name, tt := range map[string]struct {
		e    accounts.External
		kind fault.Kind
	}{
		"a local account":                {accounts.External{Source: "ldap", ID: "entryuuid=9", Name: "admin"}, fault.Conflict},
		"an account of another source":   {accounts.External{Source: "ldap", ID: "entryuuid=9", Name: "carol"}, fault.Conflict},
		"another person of the source":   {accounts.External{Source: "ldap", ID: "entryuuid=9", Name: "alice"}, fault.Conflict},
		"the new name of another person": {accounts.External{Source: "ldap", ID: "entryuuid=1", Name: "bob"}, fault.Conflict},
		"a change to a local name":       {accounts.External{Source: "ldap", ID: "entryuuid=1", Name: "admin"}, fault.Conflict},
		"a name without an identity":     {accounts.External{Source: "ldap", ID: "entryuuid=1", Name: "dave"}, fault.Conflict},
	} {
		if u, _, err := s.Accounts.PutExternal(t.Context(), 0, tt.e); !fault.Is(err, tt.kind) {
			t.Errorf("%s: PutExternal = %+v, %v", name, u, err)
		}
	}
	admin, err := s.Accounts.UserByName(t.Context(), "admin")
	if err != nil || admin.Kind != pulp.LocalUser || admin.Hash != "hash" || !admin.Staff {
		t.Errorf("the local account: %+v, %v", admin, err)
	}
	// Accounts that were made with other settings of the source keep their rights.
	for _, e := range []accounts.External{
		{Source: "ldap", ID: "dn=uid=alice", Name: "alice"}, {Source: "ldap", ID: "entryuuid=4", Name: "dave"},
	} {
		if u, change, err := s.Accounts.PutExternal(t.Context(), 0, e); err != nil || change != accounts.Updated || u.ExternalID != e.ID {
			t.Errorf("PutExternal with an identity of another kind = %+v, %q, %v", u, change, err)
		}
	}
	// A confirmation of an account that was deleted does not create it again.
	if u, _, err := s.Accounts.PutExternal(t.Context(), 999, accounts.External{Source: "ldap", Name: "eve"}); !fault.Is(err, fault.NotFound) {
		t.Errorf("PutExternal of a deleted account = %+v, %v, want NotFound", u, err)
	}
}

// TestConcurrentPutExternal confirms one new person from several goroutines: one account exists at the end.
func TestConcurrentPutExternal(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	ids := make([]int64, 8)
	var calls sync.WaitGroup
	for i := range ids {
		calls.Go(func() {
			u, _, err := s.Accounts.PutExternal(t.Context(), 0, accounts.External{
				Source: "ldap", ID: "entryuuid=1", Name: "alice", Groups: []string{"dev", "ops"},
			})
			if err != nil {
				t.Error(err)
			}
			ids[i] = u.ID
		})
	}
	calls.Wait()
	if slices.Min(ids) != slices.Max(ids) {
		t.Errorf("PutExternal returned the ids %v, want one", ids)
	}
}
