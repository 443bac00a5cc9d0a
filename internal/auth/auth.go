// Package auth knows users, passwords and tokens, and makes the one decision of who may do what.
//
// It reads accounts through Accounts and touches no HTTP beyond a request's Authorization header.
package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"log/slog"
	"net/http"
	"runtime"
	"sync"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

// How successful password checks are remembered.
const (
	checkLife   = 60 * time.Second // a check is not repeated for so long
	checksLimit = 10_000           // at most so many are remembered
)

// maxPassword is how many bytes of a password are looked at; more are refused. bcrypt takes 72.
const maxPassword = 72

// namesLogged is how many bytes of the name of a refused login are logged.
const namesLogged = 100

var errPassword = fault.New(fault.Unauthenticated, "Invalid username/password.")

// Accounts finds users. *store.Store is one.
type Accounts interface {
	// UserByName returns the user with exactly this name; NotFound when there is none.
	UserByName(ctx context.Context, username string) (pulp.User, error)
}

// Auth checks passwords. It is safe for concurrent use.
type Auth struct {
	Log *slog.Logger // of refused logins; nil: they leave no trace

	accounts Accounts
	now      func() time.Time
	key      [32]byte      // keys the memory of checks; made anew by every process
	slow     chan struct{} // a place for each password hash that may be computed at once
	decoy    string        // a hash that no password has: unknown users take as long as known ones

	mu     sync.Mutex
	checks map[[32]byte]time.Time // of successful checks, until when they hold
}

// New returns an Auth over accounts.
func New(accounts Accounts) *Auth {
	a := &Auth{
		accounts: accounts, now: time.Now, slow: make(chan struct{}, runtime.NumCPU()),
		decoy: decoyHash, checks: map[[32]byte]time.Time{},
	}
	_, _ = rand.Read(a.key[:]) // never fails: crypto/rand
	return a
}

// Login returns the user whose name and password these are. Unauthenticated when there is none, or it is not active; both take
// the same time. A successful check is remembered for a minute, by a keyed hash that covers the stored hash too, so that a
// changed password counts at once.
func (a *Auth) Login(ctx context.Context, username, password string) (pulp.User, error) {
	if !pulp.ValidText(username) { // nobody's
		return pulp.User{}, errPassword
	}
	u, err := a.accounts.UserByName(ctx, username)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return pulp.User{}, err
	}
	known := err == nil && u.Active && u.Hash != ""
	hash := u.Hash
	if !known {
		hash = a.decoy
	}
	digest := a.digest(username, password, hash)
	if known && a.remembered(digest) {
		return u, nil
	}
	select {
	case a.slow <- struct{}{}:
	case <-ctx.Done():
		return pulp.User{}, ctx.Err()
	}
	good := checkPassword(hash, password)
	<-a.slow
	if !good || !known {
		return pulp.User{}, errPassword
	}
	a.remember(digest)
	return u, nil
}

// Basic returns the user whose credentials a request carries; nil when it carries none. Unauthenticated when they are bad.
func (a *Auth) Basic(r *http.Request) (*pulp.User, error) {
	if r.Header.Get("Authorization") == "" {
		return nil, nil
	}
	username, password, ok := r.BasicAuth()
	if !ok {
		return nil, errPassword
	}
	u, err := a.Login(r.Context(), username, password)
	if fault.Is(err, fault.Unauthenticated) && a.Log != nil {
		a.Log.WarnContext(r.Context(), "login refused", slog.String("user", username[:min(len(username), namesLogged)]), slog.String("from", r.RemoteAddr))
	}
	if err != nil {
		return nil, err
	}
	return &u, nil
}

func (a *Auth) digest(parts ...string) (sum [32]byte) {
	h := hmac.New(sha256.New, a.key[:])
	for _, p := range parts {
		part := sha256.Sum256([]byte(p)) // of fixed length: parts cannot run into each other
		h.Write(part[:])
	}
	h.Sum(sum[:0])
	return sum
}

func (a *Auth) remembered(digest [32]byte) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.now().Before(a.checks[digest])
}

func (a *Auth) remember(digest [32]byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	if len(a.checks) >= checksLimit {
		for d, until := range a.checks {
			if !now.Before(until) {
				delete(a.checks, d)
			}
		}
		if len(a.checks) >= checksLimit {
			clear(a.checks)
		}
	}
	a.checks[digest] = now.Add(checkLife)
}
