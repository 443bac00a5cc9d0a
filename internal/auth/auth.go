// Package auth knows users, passwords and tokens, and makes the one decision of who may do what.
//
// It reads accounts through Accounts and touches no HTTP beyond a request's credentials and origin.
package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"log/slog"
	"net/http"
	"runtime"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/countersign/countersign/internal/clientaddr"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

// How successful password checks are remembered.
const (
	checkLife   = time.Hour // since the credentials were last used
	checksLimit = 10_000    // credentials; the least recently used are dropped
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
	key      [32]byte // keys the memory of checks; made anew by every process
	limit    *limiter
	decoy    string // a hash that no password has: unknown users take as long as known ones

	checks *lru.Cache[[32]byte, time.Time] // when credentials that were verified were last used
}

// New returns an Auth over accounts.
func New(accounts Accounts) *Auth {
	checks, err := lru.New[[32]byte, time.Time](checksLimit)
	if err != nil { // the size is a positive constant
		panic(err)
	}
	a := &Auth{accounts: accounts, now: time.Now, limit: newLimiter(runtime.NumCPU(), time.Now), decoy: decoyHash, checks: checks}
	_, _ = rand.Read(a.key[:]) // never fails: crypto/rand
	return a
}

// Login returns the user with this name and password, without any limit on attempts: it is for the command line. The error is Unauthenticated
// when there is no such user, the password is wrong, or the account is not active.
func (a *Auth) Login(ctx context.Context, username, password string) (pulp.User, error) {
	c, err := a.candidate(ctx, username, password)
	if err != nil {
		return pulp.User{}, err
	}
	if !checkPassword(c.hash, password) || !c.known {
		return pulp.User{}, errPassword
	}
	return c.user, nil
}

// candidate is a login that has not been decided.
type candidate struct {
	user   pulp.User
	known  bool     // the account exists, is active and has a password
	hash   string   // to compare the password with; of no password unless known
	digest [32]byte // identifies the credentials in the memory of checks
}

// candidate loads the account. The error is Unauthenticated for a name that no account can have.
func (a *Auth) candidate(ctx context.Context, username, password string) (candidate, error) {
	if !pulp.ValidText(username) {
		return candidate{}, errPassword
	}
	u, err := a.accounts.UserByName(ctx, username)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return candidate{}, err
	}
	c := candidate{user: u, known: err == nil && u.Active && u.Hash != "", hash: a.decoy}
	if c.known {
		c.hash = u.Hash
	}
	// The digest covers the stored hash, so that a changed password invalidates what is remembered.
	c.digest = a.digest(username, password, c.hash)
	return c, nil
}

// login is Login for a client at an address. Credentials that were verified recently pass at once. Others wait for their turn to compute a hash,
// and are refused without one when the address has too many failures (TooMany). Unknown users and wrong passwords take the same time.
func (a *Auth) login(ctx context.Context, from, username, password string) (pulp.User, error) {
	network := clientaddr.Network(from)
	c, err := a.candidate(ctx, username, password)
	if err != nil {
		if fault.Is(err, fault.Unauthenticated) {
			blocked, refusal := a.limit.fail(network)
			a.warnOfBlocked(ctx, blocked, from)
			if refusal != nil {
				err = refusal
			}
		}
		return pulp.User{}, err
	}
	if c.known && a.remembered(c.digest) {
		return c.user, nil
	}
	if err := a.limit.acquire(ctx, network); err != nil {
		return pulp.User{}, err
	}
	// Another attempt with the same credentials may have succeeded while this one waited.
	good := c.known && a.remembered(c.digest) || checkPassword(c.hash, password) && c.known
	if good {
		a.checks.Add(c.digest, a.now())
	}
	a.warnOfBlocked(ctx, a.limit.release(network, !good), from)
	if !good {
		return pulp.User{}, errPassword
	}
	return c.user, nil
}

// warnOfBlocked logs that a failure of an address has blocked it.
func (a *Auth) warnOfBlocked(ctx context.Context, blocked bool, from string) {
	if blocked && a.Log != nil {
		a.Log.WarnContext(ctx, "too many failed logins; password logins from the address are refused for up to a minute", slog.String("from", from), slog.String("network", clientaddr.Network(from).String()))
	}
}

// Basic returns the user whose credentials a request carries; nil when it carries none. The error is Unauthenticated for bad credentials, and TooMany
// when the request's client, RemoteAddr, has failed too often.
func (a *Auth) Basic(r *http.Request) (*pulp.User, error) {
	if r.Header.Get("Authorization") == "" {
		return nil, nil
	}
	username, password, ok := r.BasicAuth()
	if !ok {
		return nil, errPassword
	}
	u, err := a.login(r.Context(), r.RemoteAddr, username, password)
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

// remembered reports whether credentials were verified and have been in use since, and notes their use.
func (a *Auth) remembered(digest [32]byte) bool {
	now := a.now()
	used, ok := a.checks.Get(digest)
	if !ok || now.Sub(used) >= checkLife {
		return false
	}
	a.checks.Add(digest, now)
	return true
}
