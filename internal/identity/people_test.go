package identity_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/pgtest"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/storetest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// source is a source in memory. All passwords are "secret".
type source struct {
	name string

	mu     sync.Mutex
	people map[string]identity.Person
	err    error         // of every question
	hold   chan struct{} // questions wait until it is closed; nil: they do not wait
	asked  int
}

func (s *source) Name() string { return s.name }

func (s *source) Authenticate(ctx context.Context, name, password string) (identity.Person, error) {
	p, err := s.Confirm(ctx, name)
	if err == nil && password != "secret" {
		return identity.Person{}, identity.ErrPassword
	}
	return p, err
}

func (s *source) Confirm(ctx context.Context, name string) (identity.Person, error) {
	s.mu.Lock()
	s.asked++
	p, known := s.people[strings.ToLower(name)]
	err, hold := s.err, s.hold
	s.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return identity.Person{}, context.Cause(ctx)
		}
	}
	switch {
	case err != nil:
		return identity.Person{}, err
	case !known:
		return identity.Person{}, identity.ErrUnknown
	}
	return p, nil
}

// set changes the source.
func (s *source) set(change func(*source)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

// questions returns the number of questions since the last call.
func (s *source) questions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() { s.asked = 0 }()
	return s.asked
}

// errDown is the error of a source that does not answer.
var errDown = fault.NewOutage(fault.Directory, errors.New("connection refused"), "The source does not answer.")

// town is a People over two sources and a database, with one clock.
type town struct {
	*identity.People
	store         *store.Store
	first, second *source
	log           bytes.Buffer

	mu  sync.Mutex
	now time.Time
}

// newTown returns a town whose second source has alice.
func newTown(t *testing.T) *town {
	t.Helper()
	w := &town{
		store: storetest.Open(t), now: time.Now().Truncate(time.Microsecond),
		first: &source{name: "htpasswd", people: map[string]identity.Person{}},
		second: &source{name: "ldap", people: map[string]identity.Person{
			"alice": {Name: "alice", ID: "id=1", Groups: []string{"dev"}},
		}},
	}
	clock := func() time.Time { w.mu.Lock(); defer w.mu.Unlock(); return w.now }
	w.store.DB.SetClock(clock)
	w.People = identity.NewPeople(identity.PeopleOptions{
		Accounts: w.store.Accounts, Log: slog.New(slog.NewTextHandler(&w.log, nil)), Reserved: []string{"root"},
		Sources: []identity.Confirmed{
			{Source: w.first, Recheck: time.Minute, MaxOutage: time.Hour}, {Source: w.second, Recheck: 5 * time.Minute, MaxOutage: time.Hour},
		},
	})
	w.SetClock(clock)
	return w
}

func (w *town) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// login logs in and ends the test if that fails.
func (w *town) login(t *testing.T, name string) pulp.User {
	t.Helper()
	u, err := w.Authenticate(t.Context(), "", name, "secret")
	if err != nil {
		t.Fatalf("Authenticate(%s) = %v", name, err)
	}
	return u
}

// confirm reads an account and confirms it.
func (w *town) confirm(t *testing.T, name string) (pulp.User, error) {
	t.Helper()
	u, err := w.store.Accounts.UserByName(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return w.Confirm(t.Context(), u)
}

// wantActive verifies that the account of a name is active and how often its source was asked.
func (w *town) wantActive(t *testing.T, name string, active bool, questions int) {
	t.Helper()
	u, err := w.confirm(t, name)
	if got := w.second.questions(); err != nil || u.Active != active || got != questions {
		t.Errorf("Confirm(%s) = active %t, %v after %d questions, want active %t, %d questions", name, u.Active, err, got, active, questions)
	}
}

// TestPeopleAuthenticate verifies the order of sources and the refusals.
func TestPeopleAuthenticate(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	u := w.login(t, "ALICE")
	if u.Username != "alice" || u.Kind != pulp.ExternalUser || u.Source != "ldap" || !u.Active || u.Staff {
		t.Errorf("the account: %+v", u)
	}
	if again := w.login(t, "alice"); again.ID != u.ID {
		t.Errorf("a second login has the account %d, want %d", again.ID, u.ID)
	}
	if got := w.log.String(); strings.Count(got, "create user") != 1 || !strings.Contains(got, "identity=ldap") {
		t.Errorf("audit: %s", got)
	}
	w.first.people["bob"] = identity.Person{Name: "bob", Admin: true}
	w.second.people["bob"] = identity.Person{Name: "bob", ID: "id=2"}
	_ = w.second.questions()
	if bob := w.login(t, "bob"); bob.Source != "htpasswd" || !bob.Staff {
		t.Errorf("bob is in both sources: %+v, want the first", bob)
	}
	if _, err := w.Authenticate(t.Context(), "", "bob", "wrong"); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("bob with a wrong password: %v", err)
	}
	if got := w.second.questions(); got != 0 {
		t.Errorf("the second source was asked %d times about a person of the first", got)
	}
	if _, err := w.Authenticate(t.Context(), "ldap", "bob", "secret"); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("bob of the second source: %v, want a refusal, because the name belongs to the first", err)
	}
	for source, name := range map[string]string{"htpasswd": "alice", "": "carol", "oidc": "alice"} {
		if _, err := w.Authenticate(t.Context(), source, name, "secret"); !fault.Is(err, fault.Unauthenticated) {
			t.Errorf("%s in the source %q: %v", name, source, err)
		}
	}
	w.first.err = errDown
	if _, err := w.Authenticate(t.Context(), "", "alice", "secret"); !fault.IsOutage(err, fault.Directory) {
		t.Errorf("while the first source is down: %v, want an outage", err)
	}
	if _, err := w.Authenticate(t.Context(), "ldap", "alice", "secret"); err != nil {
		t.Errorf("in the second source alone: %v", err)
	}
}

// TestPeopleTakeNoLocalName verifies that a source cannot log in to a local account, nor to a disabled one.
func TestPeopleTakeNoLocalName(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	if _, err := w.store.Accounts.PutUser(t.Context(), "admin", "hash", true, true); err != nil {
		t.Fatal(err)
	}
	w.second.people["admin"] = identity.Person{Name: "admin", ID: "id=7"}
	if u, err := w.Authenticate(t.Context(), "", "Admin", "secret"); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("Authenticate = %+v, %v", u, err)
	}
	if !strings.Contains(w.log.String(), "The name belongs to another account") {
		t.Errorf("the log does not say why: %s", &w.log)
	}
	w.second.people["root"] = identity.Person{Name: "root", ID: "id=8"}
	if u, err := w.Authenticate(t.Context(), "", "root", "secret"); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("Authenticate with a reserved name = %+v, %v", u, err)
	}
	w.login(t, "alice")
	storetest.ExecAll(t, w.store, `UPDATE account SET is_active = FALSE WHERE username = 'alice'`)
	if u, err := w.Authenticate(t.Context(), "", "alice", "secret"); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("Authenticate of a disabled account = %+v, %v", u, err)
	}
	w.pass(time.Hour)
	_ = w.second.questions()
	w.wantActive(t, "alice", false, 0)
}

// TestPeopleLoggedIn verifies the account of a person whom a source authenticated without a password.
func TestPeopleLoggedIn(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	if u, err := w.LoggedIn(t.Context(), "ldap", identity.Person{Name: "dave", ID: "id=4"}); err != nil || u.Username != "dave" || !u.Active {
		t.Errorf("LoggedIn = %+v, %v", u, err)
	}
	for source, person := range map[string]identity.Person{"ldap": {Name: "dave", ID: "id=5"}, "other": {Name: "eve", ID: "id=6"}} {
		if u, err := w.LoggedIn(t.Context(), source, person); !fault.Is(err, fault.Unauthenticated) {
			t.Errorf("LoggedIn(%s, %+v) = %+v, %v", source, person, u, err)
		}
	}
}

// TestPeopleConfirm verifies that an account is confirmed again after the time of its source, that a removed person is
// inactive and that one who is back is active.
func TestPeopleConfirm(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	w.login(t, "alice")
	_ = w.second.questions()
	w.wantActive(t, "alice", true, 0)
	w.pass(5*time.Minute - time.Second)
	w.wantActive(t, "alice", true, 0)
	w.pass(time.Second)
	w.wantActive(t, "alice", true, 1)
	w.wantActive(t, "alice", true, 0)
	w.second.set(func(s *source) {
		s.people["alice"] = identity.Person{Name: "alice", ID: "id=1", Admin: true, Mail: "a@x"}
	})
	w.pass(5 * time.Minute)
	if u, err := w.confirm(t, "alice"); err != nil || !u.Staff || u.Email != "a@x" {
		t.Errorf("Confirm after a change = %+v, %v", u, err)
	}
	_ = w.second.questions()

	alice := w.second.people["alice"]
	w.second.set(func(s *source) { delete(s.people, "alice") })
	w.pass(5 * time.Minute)
	w.wantActive(t, "alice", false, 1)
	w.wantActive(t, "alice", false, 0)
	if u, err := w.store.Accounts.UserByName(t.Context(), "alice"); err != nil || u.Active {
		t.Errorf("the stored account: %+v, %v, want inactive", u, err)
	}
	w.second.set(func(s *source) { s.people["alice"] = alice })
	w.wantActive(t, "alice", false, 0) // asked a short time ago
	w.pass(10 * time.Second)
	w.wantActive(t, "alice", true, 1)
	if got := w.log.String(); strings.Count(got, "remove user") != 1 || strings.Count(got, "update user") != 2 {
		t.Errorf("audit: %s", got)
	}
}

// TestPeopleConfirmAnother verifies that an account does not pass to another person of its source with the same name.
func TestPeopleConfirmAnother(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	w.login(t, "alice")
	w.second.set(func(s *source) { s.people["alice"] = identity.Person{Name: "alice", ID: "id=2"} })
	w.pass(5 * time.Minute)
	_ = w.second.questions()
	w.wantActive(t, "alice", false, 1)
	if u, err := w.Authenticate(t.Context(), "", "alice", "secret"); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("the other person logs in: %+v, %v", u, err)
	}
}

// TestPeopleRemovedElsewhere verifies that a process notices at once that another has found an account to be removed.
func TestPeopleRemovedElsewhere(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	u := w.login(t, "alice")
	w.second.set(func(s *source) { delete(s.people, "alice") })
	if _, err := w.store.Accounts.RemoveExternal(t.Context(), u.ID); err != nil {
		t.Fatal(err)
	}
	_ = w.second.questions()
	w.wantActive(t, "alice", false, 1)
	w.wantActive(t, "alice", false, 0)
}

// TestPeopleOutage verifies that the latest confirmation is valid for a bounded time while a source does not answer,
// and that the source is asked rarely then.
func TestPeopleOutage(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	w.login(t, "alice")
	_ = w.second.questions()
	w.second.set(func(s *source) { s.err = errDown })
	w.pass(5 * time.Minute)
	w.wantActive(t, "alice", true, 1)
	w.wantActive(t, "alice", true, 0)
	w.pass(10 * time.Second)
	w.wantActive(t, "alice", true, 1)
	w.pass(55*time.Minute - 11*time.Second)
	w.wantActive(t, "alice", true, 1)
	w.pass(time.Second)
	if u, err := w.confirm(t, "alice"); !fault.IsOutage(err, fault.Directory) {
		t.Errorf("Confirm an hour after the latest confirmation = %+v, %v, want an outage", u, err)
	}
	w.second.set(func(s *source) { s.err = nil })
	w.pass(10 * time.Second)
	_ = w.second.questions()
	w.wantActive(t, "alice", true, 1)
}

// TestPeopleSweep verifies that accounts which nobody uses are confirmed after an hour, the oldest first, and that an
// outage removes nobody.
func TestPeopleSweep(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	sweep := func(questions int) {
		t.Helper()
		if err := w.Sweep(t.Context()); err != nil || w.second.questions() != questions {
			t.Errorf("Sweep = %v after other than %d questions", err, questions)
		}
	}
	for i := range 25 {
		name := fmt.Sprintf("p%d", i)
		w.second.people[name] = identity.Person{Name: name, ID: "id=" + name}
		w.login(t, name)
	}
	_ = w.second.questions()
	sweep(0)
	w.pass(time.Hour + time.Second)
	w.second.set(func(s *source) { s.err = errDown })
	sweep(1)
	w.pass(10 * time.Second)
	w.second.set(func(s *source) { s.err = nil; delete(s.people, "p24") })
	sweep(20)
	sweep(5)
	sweep(0)
	if u, err := w.store.Accounts.UserByName(t.Context(), "p24"); err != nil || u.Active {
		t.Errorf("the removed person: %+v, %v", u, err)
	}
}

// TestPeopleWithoutSource verifies that accounts of a source that is not configured are inactive, and that other
// accounts are not touched.
func TestPeopleWithoutSource(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	u := w.login(t, "alice")
	none := identity.NewPeople(identity.PeopleOptions{Accounts: w.store.Accounts, Log: slog.New(slog.DiscardHandler)})
	if got, err := none.Confirm(t.Context(), u); err != nil || got.Active {
		t.Errorf("Confirm without the source = %+v, %v", got, err)
	}
	for _, kind := range []pulp.AccountKind{pulp.LocalUser, pulp.Robot, pulp.RuleIdentity} {
		if got, err := none.Confirm(t.Context(), pulp.User{Kind: kind, Active: true}); err != nil || !got.Active {
			t.Errorf("Confirm of the kind %s = %+v, %v", kind, got, err)
		}
	}
}

// TestPeopleShareQuestions verifies that requests at the same time share one question, and that one of them can leave.
func TestPeopleShareQuestions(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	u := w.login(t, "alice")
	w.pass(5 * time.Minute)
	_ = w.second.questions()
	hold := make(chan struct{})
	w.second.set(func(s *source) { s.hold = hold })
	leaving, leave := context.WithCancel(t.Context())
	var left error
	var calls sync.WaitGroup
	calls.Go(func() { _, left = w.Confirm(leaving, u) })
	for range 9 {
		calls.Go(func() {
			if got, err := w.Confirm(t.Context(), u); err != nil || !got.Active {
				t.Errorf("Confirm = %+v, %v", got, err)
			}
		})
	}
	leave()
	close(hold)
	calls.Wait()
	if got := w.second.questions(); got != 1 || left != nil && !errors.Is(left, context.Canceled) {
		t.Errorf("%d questions, want 1; the request that left: %v", got, left)
	}
}
