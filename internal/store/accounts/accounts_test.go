package accounts_test

import (
	"sync"
	"testing"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/accounts"
	"github.com/countersign/countersign/internal/store/storetest"
)

func TestPutUserCreatesAndReplaces(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t).Accounts
	made, err := s.PutUser(t.Context(), "alice", "hash 1", true, true)
	if err != nil {
		t.Fatal(err)
	}
	if made.Username != "alice" || made.Hash != "hash 1" || !made.Staff || !made.Active || made.Created.IsZero() {
		t.Errorf("PutUser of a new user = %+v", made)
	}
	changed, err := s.PutUser(t.Context(), "alice", "hash 2", false, false)
	if err != nil {
		t.Fatal(err)
	}
	if changed.ID != made.ID || changed.Hash != "hash 2" || changed.Staff || changed.Active || !changed.Created.Equal(made.Created) {
		t.Errorf("PutUser of %+v = %+v, want the same id and time of creation with new fields", made, changed)
	}
	byName, err := s.UserByName(t.Context(), "alice")
	if err != nil || byName.Hash != "hash 2" {
		t.Errorf("UserByName = %+v, %v, want the changed user", byName, err)
	}
	byID, err := s.User(t.Context(), made.ID)
	if err != nil || byID.Username != "alice" || byID.Active {
		t.Errorf("User = %+v, %v, want the changed user", byID, err)
	}
}

// TestPutUserReplacesAccountsOfOthers makes a local user with the name of an external account: nothing of that account
// is left to it.
func TestPutUserReplacesAccountsOfOthers(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	before, err := s.Accounts.CreateUser(t.Context(), pulp.User{
		Username: "admin", Active: true, Kind: pulp.ExternalUser, Source: "ldap", ExternalID: "7", Email: "admin@ldap.example",
	})
	if err != nil {
		t.Fatal(err)
	}
	to := accounts.Assignee{Account: before.ID, Name: "admin"}
	if _, err := s.Accounts.AssignRole(t.Context(), access.NamespaceOwner, "", to); err != nil {
		t.Fatal(err)
	}
	storetest.Exec(t, s, `INSERT INTO api_token (id, account_id, name, hash, hint, created, updated) VALUES ('t', $1, 't', 'h', 'cst_', 1, 1)`, before.ID)
	after, err := s.Accounts.PutUser(t.Context(), "admin", "hash", true, true)
	if err != nil || after.ID == before.ID || after.Kind != pulp.LocalUser || after.Source+after.ExternalID+after.Email != "" || !after.Staff {
		t.Errorf("PutUser over an external account = %+v, %v, want a new local user", after, err)
	}
	for _, table := range []string{"role_assignment", "api_token"} {
		var n int
		if err := s.DB.Read().QueryRowContext(t.Context(), `SELECT COUNT(*) FROM `+table).Scan(&n); err != nil || n != 0 {
			t.Errorf("%d rows of %s are left, %v", n, table, err)
		}
	}
}

func TestUsersAreFoundByTheExactName(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t).Accounts
	if _, err := s.PutUser(t.Context(), "alice", "hash", false, true); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"Alice", "alice ", "ali", "%", ""} {
		if u, err := s.UserByName(t.Context(), name); !fault.Is(err, fault.NotFound) {
			t.Errorf("UserByName(%q) = %+v, %v, want NotFound", name, u, err)
		}
	}
	if u, err := s.User(t.Context(), -1); !fault.Is(err, fault.NotFound) {
		t.Errorf("User(-1) = %+v, %v, want NotFound", u, err)
	}
}

// TestConcurrentPutUser stores one user from several goroutines: one row exists at the end.
func TestConcurrentPutUser(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t).Accounts
	ids := make([]int64, 8)
	var calls sync.WaitGroup
	for i := range ids {
		calls.Go(func() {
			u, err := s.PutUser(t.Context(), "bob", "hash", false, true)
			if err != nil {
				t.Error(err)
			}
			ids[i] = u.ID
		})
	}
	calls.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Fatalf("PutUser returned the ids %v, want one", ids)
		}
	}
}
