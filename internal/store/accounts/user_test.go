package accounts_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/accounts"
	"github.com/countersign/countersign/internal/store/storetest"
)

// wantField checks that an error is about one field.
func wantField(t *testing.T, err error, field string) {
	t.Helper()
	if e, ok := errors.AsType[*fault.Error](err); !ok || e.Kind != fault.Invalid || len(e.Fields[field]) != 1 {
		t.Errorf("error %v, want one about the field %s", err, field)
	}
}

func create(t *testing.T, s *store.Store, u pulp.User) pulp.User {
	t.Helper()
	u, err := s.Accounts.CreateUser(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestCreateAndEditUser(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	now := time.Now().Truncate(time.Microsecond)
	want := pulp.User{
		Username: "alice", Hash: "hash", Staff: true, Active: true, Kind: pulp.ExternalUser, Source: "ldap", ExternalID: "uid=alice",
		Checked: now, FirstName: "Alice", LastName: "A", Email: "alice@example.com", Description: new("of LDAP"),
	}
	made := create(t, s, want)
	ignored := cmpopts.IgnoreFields(pulp.User{}, "ID", "Stamps")
	if diff := cmp.Diff(want, made, ignored); diff != "" || made.ID == 0 || made.Created.IsZero() {
		t.Errorf("CreateUser (-want +got):\n%s", diff)
	}
	_, err := s.Accounts.CreateUser(t.Context(), pulp.User{Username: "alice"})
	wantField(t, err, "username")
	if bob := create(t, s, pulp.User{Username: "bob"}); bob.Kind != pulp.LocalUser || !bob.Checked.IsZero() ||
		bob.Description != nil {
		t.Errorf("CreateUser of a local user = %+v", bob)
	}
	want.Username, want.Hash, want.Staff, want.Active = "carol", "h2", false, false
	want.Description, want.Checked = nil, time.Time{}
	changed, err := s.Accounts.EditUser(t.Context(), made.ID, func(u *pulp.User) error {
		if u.Username != "alice" {
			t.Errorf("edit gets %+v", u)
		}
		*u = want
		return nil
	})
	if diff := cmp.Diff(want, changed, ignored); err != nil || diff != "" || changed.ID != made.ID {
		t.Errorf("EditUser: %v (-want +got):\n%s", err, diff)
	}
	_, err = s.Accounts.EditUser(t.Context(), made.ID, func(u *pulp.User) error { u.Username = "bob"; return nil })
	wantField(t, err, "username")
	refused := errors.New("refused")
	refuse := func(u *pulp.User) error { u.Username = "dave"; return refused }
	if _, err = s.Accounts.EditUser(t.Context(), made.ID, refuse); !errors.Is(err, refused) {
		t.Errorf("EditUser with an error of edit: %v", err)
	}
	if err := s.Accounts.DeleteUser(t.Context(), made.ID, func(pulp.User) error { return refused }); !errors.Is(
		err,
		refused,
	) {
		t.Errorf("DeleteUser with an error of permit: %v", err)
	}
	if u, err := s.Accounts.User(t.Context(), made.ID); err != nil || u.Username != "carol" {
		t.Errorf("after refused changes: %+v, %v", u, err)
	}
	if err := s.Accounts.DeleteUser(t.Context(), made.ID, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Accounts.DeleteUser(t.Context(), made.ID, nil); !fault.Is(err, fault.NotFound) {
		t.Errorf("DeleteUser of a deleted user: %v", err)
	}
	if _, err := s.Accounts.EditUser(t.Context(), made.ID, nil); !fault.Is(err, fault.NotFound) {
		t.Errorf("EditUser of a deleted user: %v", err)
	}
}

// TestIDsAreNotUsedAgain deletes the account with the largest id.
func TestIDsAreNotUsedAgain(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	first, last := create(t, s, pulp.User{Username: "first"}), create(t, s, pulp.User{Username: "last"})
	for _, id := range []int64{last.ID, first.ID} {
		if err := s.Accounts.DeleteUser(t.Context(), id, nil); err != nil {
			t.Fatal(err)
		}
	}
	if next := create(t, s, pulp.User{Username: "next"}); next.ID <= last.ID {
		t.Errorf("an account after %d has the id %d", last.ID, next.ID)
	}
	if next := user(t, s, "put"); next.ID <= last.ID+1 {
		t.Errorf("PutUser after %d returned the id %d", last.ID+1, next.ID)
	}
}

// TestEditOfARemovedPerson changes external accounts that their source does not confirm: the change neither disables
// nor enables them when they come back.
func TestEditOfARemovedPerson(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	for name, tt := range map[string]struct {
		edit func(*pulp.User)
		want bool // active when the person is back
	}{
		"email":    {edit: func(u *pulp.User) { u.Email = "new@corp.example" }, want: true},
		"disabled": {edit: func(u *pulp.User) { u.Active = false }},
		"enabled":  {edit: func(u *pulp.User) { u.Active = true }, want: true},
	} {
		u := create(t, s, pulp.User{Username: name, Active: true, Kind: pulp.ExternalUser, Source: "ldap"})
		changed, err := s.Accounts.EditUser(t.Context(), u.ID, func(u *pulp.User) error { tt.edit(u); return nil })
		if err != nil || changed.Active {
			t.Errorf("%s: %+v, %v, want an account that is not active", name, changed, err)
		}
		storetest.Exec(t, s, `UPDATE account SET checked = 1 WHERE id = $1`, u.ID)
		if got, err := s.Accounts.User(t.Context(), u.ID); err != nil || got.Active != tt.want {
			t.Errorf("%s: active %t after the confirmation, %v, want %t", name, got.Active, err, tt.want)
		}
	}
}

// TestTheLastAdministratorStays takes from administrators, one after another, what makes them local administrators.
func TestTheLastAdministratorStays(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	admin := func(name string) pulp.User {
		return create(t, s, pulp.User{Username: name, Hash: "hash", Staff: true, Active: true})
	}
	last := admin("last")
	// None of these can take the place of the last one.
	create(t, s, pulp.User{Username: "disabled", Hash: "hash", Staff: true})
	create(t, s, pulp.User{Username: "passwordless", Staff: true, Active: true})
	create(t, s, pulp.User{Username: "robot", Hash: "hash", Staff: true, Active: true, Kind: pulp.Robot})
	create(
		t,
		s,
		pulp.User{Username: "ldap", Hash: "hash", Staff: true, Active: true, Kind: pulp.ExternalUser, Source: "ldap"},
	)
	for name, edit := range map[string]func(*pulp.User){
		"disabled": func(u *pulp.User) { u.Active = false }, "demoted": func(u *pulp.User) { u.Staff = false },
		"without a password": func(u *pulp.User) { u.Hash = "" },
	} {
		change := func(u *pulp.User) error { edit(u); return nil }
		other := admin("other" + name)
		if _, err := s.Accounts.EditUser(t.Context(), other.ID, change); err != nil {
			t.Errorf("one of two %s: %v", name, err)
		}
		if _, err := s.Accounts.EditUser(t.Context(), last.ID, change); !errors.Is(err, accounts.ErrLastAdministrator) {
			t.Errorf("the last one %s: %v", name, err)
		}
	}
	if err := s.Accounts.DeleteUser(t.Context(), last.ID, nil); !errors.Is(err, accounts.ErrLastAdministrator) {
		t.Errorf("the last one deleted: %v", err)
	}
	change := func(u *pulp.User) error { u.FirstName, u.Hash = "L", "new"; return nil }
	if u, err := s.Accounts.EditUser(t.Context(), last.ID, change); err != nil || !u.IsLocalAdministrator() {
		t.Errorf("another change of the last one: %+v, %v", u, err)
	}
}

// TestConcurrentChangesLeaveAnAdministrator demotes, disables and deletes all administrators at once.
func TestConcurrentChangesLeaveAnAdministrator(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	const all = 12
	ids := make([]int64, all)
	for i := range ids {
		ids[i] = create(
			t,
			s,
			pulp.User{Username: "admin" + string(rune('a'+i)), Hash: "hash", Staff: true, Active: true},
		).ID
	}
	refused := make(chan error, all)
	var calls sync.WaitGroup
	for i, id := range ids {
		calls.Go(func() {
			var err error
			switch i % 3 {
			case 0:
				err = s.Accounts.DeleteUser(t.Context(), id, nil)
			case 1:
				_, err = s.Accounts.EditUser(t.Context(), id, func(u *pulp.User) error { u.Active = false; return nil })
			case 2:
				_, err = s.Accounts.EditUser(t.Context(), id, func(u *pulp.User) error { u.Staff = false; return nil })
			}
			if err != nil {
				refused <- err
			}
		})
	}
	calls.Wait()
	close(refused)
	n := 0
	for err := range refused {
		if n++; !errors.Is(err, accounts.ErrLastAdministrator) {
			t.Error(err)
		}
	}
	if n != 1 {
		t.Errorf("%d changes were refused, want 1", n)
	}
}

func TestNamed(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	alice := user(t, s, "alice")
	team, err := s.Accounts.CreateGroup(t.Context(), "team", 0)
	if err != nil {
		t.Fatal(err)
	}
	users, groups, err := s.Accounts.Named(
		t.Context(),
		[]string{"alice", "nobody", "team", "alice"},
		[]string{"team", "alice"},
	)
	if err != nil || len(users) != 1 || users["alice"] != alice.ID || len(groups) != 1 || groups["team"] != team.ID {
		t.Errorf("Named = %v, %v, %v", users, groups, err)
	}
	if users, groups, err := s.Accounts.Named(t.Context(), nil, nil); err != nil || len(users)+len(groups) != 0 {
		t.Errorf("Named without names = %v, %v, %v", users, groups, err)
	}
}
