package accounts_test

import (
	"sync"
	"testing"

	"github.com/countersign/countersign/internal/fault"
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
