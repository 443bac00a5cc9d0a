package auth_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

// secret and wrong are passwords for which no hash is computed here, because they are too long.
var secret, wrong = tooLong + "secret", tooLong + "wrong"

// people is a source with alice, whose password is secret.
type people struct {
	mu        sync.Mutex
	err       error         // of Authenticate, after the wait
	wait      time.Duration // of each question
	removed   bool
	passwords []string // that the source received
	running   int
	most      int // questions at a time
}

var alice = pulp.User{ID: 9, Username: "alice", Kind: pulp.ExternalUser, Source: "ldap", Active: true}

func (p *people) Authenticate(_ context.Context, source, name, password string) (pulp.User, error) {
	p.mu.Lock()
	p.passwords = append(p.passwords, password)
	p.running++
	p.most = max(p.most, p.running)
	p.mu.Unlock()
	time.Sleep(p.wait)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running--
	switch {
	case p.err != nil:
		return pulp.User{}, p.err
	case (name == "alice" || name == "alice@example.com") && password == secret && (source == "" || source == "ldap"):
		return alice, nil
	}
	return pulp.User{}, fault.New(fault.Unauthenticated, "unknown")
}

func (p *people) Confirm(_ context.Context, u pulp.User) (pulp.User, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	u.Active = u.Active && !p.removed
	return u, nil
}

func (p *people) questions() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer func() { p.passwords = nil }()
	return len(p.passwords)
}

const home = "192.0.2.7:41000"

// TestLocalAccountsWin verifies that the sources are not asked about names of accounts of the server, whatever their
// state is, nor about API tokens.
func TestLocalAccountsWin(t *testing.T) {
	t.Parallel()
	users := accounts{
		"admin":    {ID: 1, Username: "admin", Hash: cheap(t, "local"), Active: true, Kind: pulp.LocalUser},
		"disabled": {ID: 2, Username: "disabled", Hash: cheap(t, "local"), Kind: pulp.LocalUser},
		"nohash":   {ID: 3, Username: "nohash", Active: true, Kind: pulp.LocalUser},
		"robot":    {ID: 4, Username: "robot", Active: true, Kind: pulp.Robot},
		"alice":    alice,
	}
	a := auth.New(users, slog.New(slog.DiscardHandler))
	p := &people{}
	a.UsePeople(p)
	if err := attempt(t.Context(), a, home, "admin", "local"); err != nil {
		t.Errorf("the local password: %v", err)
	}
	for _, name := range []string{"admin", "disabled", "nohash", "robot", auth.IDTokenUser} {
		if err := attempt(t.Context(), a, home, name, secret); !fault.Is(err, fault.Unauthenticated) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := attempt(t.Context(), a, home, "alice", "cst_"+secret); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("an API token: %v", err)
	}
	if got := p.questions(); got != 0 {
		t.Errorf("the source was asked %d times", got)
	}
	if err := attempt(t.Context(), a, home, "alice", secret); err != nil {
		t.Errorf("the external account: %v", err)
	}
	delete(users, "alice")
	if err := attempt(t.Context(), a, home, "alice@example.com", secret); err != nil {
		t.Errorf("a name without an account: %v", err)
	}
}

// TestExternalCredentialsAreCachedBriefly verifies that the source is asked at most once a minute about credentials
// that it accepted, that the account counts at each use, and that refusals are not cached.
func TestExternalCredentialsAreCachedBriefly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		users := accounts{"alice": alice}
		a := auth.New(users, slog.New(slog.DiscardHandler))
		p := &people{}
		a.UsePeople(p)
		login := func(name string, good bool, questions int) {
			t.Helper()
			err := attempt(t.Context(), a, home, name, secret)
			if got := p.questions(); (err == nil) != good || got != questions {
				t.Errorf("%s: %v after %d questions, want success %t after %d", name, err, got, good, questions)
			}
		}
		login("alice", true, 1)
		login("alice@example.com", true, 1)
		for range 5 {
			time.Sleep(11 * time.Second)
			login("alice", true, 0)
			login("alice@example.com", true, 0)
		}
		time.Sleep(5 * time.Second)
		login("alice", true, 1)

		p.removed = true // according to another question
		p.err = fault.New(fault.Unauthenticated, "removed")
		login("alice", false, 1)
		p.removed, p.err = false, nil
		login("alice", true, 0)
		users["alice"] = pulp.User{ID: 10, Username: "alice", Kind: pulp.LocalUser, Active: true}
		login("alice", false, 0)
		login("alice@example.com", true, 1) // the fake does not see the conflict
	})
}

// TestExternalFailuresAreLimited verifies that refusals of sources block an address, also when many attempts run at a
// time, and that an outage does not count.
func TestExternalFailuresAreLimited(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := auth.New(accounts{}, slog.New(slog.DiscardHandler))
		p := &people{wait: time.Second}
		a.UsePeople(p)
		p.err = fault.NewOutage(fault.Directory, errors.New("refused"), "The directory does not answer.")
		for range 12 {
			if err := attempt(t.Context(), a, home, "alice", secret); !fault.Is(err, fault.Unavailable) {
				t.Fatalf("during an outage: %v", err)
			}
		}
		p.err = nil
		_ = p.questions()
		var refused, blocked atomic.Int64
		var calls sync.WaitGroup
		for range 50 {
			calls.Go(func() {
				switch err := attempt(t.Context(), a, home, "alice", wrong); {
				case fault.Is(err, fault.Unauthenticated):
					refused.Add(1)
				case fault.Is(err, fault.TooMany):
					blocked.Add(1)
				default:
					t.Errorf("a wrong password: %v", err)
				}
			})
		}
		calls.Wait()
		if n := p.questions(); n < 10 || n > 13 || refused.Load()+blocked.Load() != 50 || p.most > 4 {
			t.Errorf("%d questions, %d at a time, %d refusals, %d blocked", n, p.most, refused.Load(), blocked.Load())
		}
		if err := attempt(t.Context(), a, home, "alice", secret); !fault.Is(err, fault.TooMany) {
			t.Errorf("the right password from a blocked address: %v", err)
		}
		if err := attempt(t.Context(), a, "192.0.2.8:41000", "alice", secret); err != nil {
			t.Errorf("from another address: %v", err)
		}
		time.Sleep(time.Minute)
		if err := attempt(t.Context(), a, home, "alice", secret); err != nil {
			t.Errorf("after a minute: %v", err)
		}
	})
}

// TestSlowSourcesDelayNoLocalLogins verifies that logins of local accounts do not wait for a source.
func TestSlowSourcesDelayNoLocalLogins(t *testing.T) {
	t.Parallel()
	hash := cheap(t, "local")
	synctest.Test(t, func(t *testing.T) {
		a := auth.New(accounts{"admin": {ID: 1, Username: "admin", Hash: hash, Active: true}}, slog.New(slog.DiscardHandler))
		p := &people{wait: time.Minute}
		a.UsePeople(p)
		var calls sync.WaitGroup
		for range 50 {
			calls.Go(func() { _ = attempt(t.Context(), a, home, "alice", secret) })
		}
		synctest.Wait()
		before := time.Now()
		if err := attempt(t.Context(), a, home, "admin", "local"); err != nil || time.Since(before) > 0 {
			t.Errorf("the local login: %v after %v", err, time.Since(before))
		}
		calls.Wait()
	})
}

// TestConfirm verifies that accounts of a source are not active without the sources.
func TestConfirm(t *testing.T) {
	t.Parallel()
	a := auth.New(accounts{}, slog.New(slog.DiscardHandler))
	local := pulp.User{ID: 1, Kind: pulp.LocalUser, Active: true}
	for _, c := range []struct {
		user pulp.User
		want bool
	}{{alice, false}, {local, true}} {
		if got, err := a.Confirm(t.Context(), c.user); err != nil || got.Active != c.want {
			t.Errorf("Confirm(%s) = active %t, %v, want %t", c.user.Kind, got.Active, err, c.want)
		}
	}
	p := &people{}
	a.UsePeople(p)
	if got, err := a.Confirm(t.Context(), alice); err != nil || !got.Active {
		t.Errorf("Confirm with the source = %+v, %v", got, err)
	}
	p.removed = true
	if got, err := a.Confirm(t.Context(), alice); err != nil || got.Active {
		t.Errorf("Confirm of a removed person = %+v, %v", got, err)
	}
}
