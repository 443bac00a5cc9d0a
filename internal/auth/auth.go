// Package auth authenticates callers by password, token or certificate, and limits failed logins.
//
// It reads accounts through the interface Accounts. Of HTTP it uses only the credentials and the origin of requests.
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

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/clientaddr"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

// Limits of the cache of verified credentials.
const (
	checkLife   = time.Hour // since the last use of the credentials
	checksLimit = 10_000    // credentials; the least recently used are evicted
)

// maxPassword is the length limit of passwords in bytes, which is the limit of bcrypt.
const maxPassword = 72

// maxLoggedName is the length in bytes to which the name in the log entry of a refused login is cut.
const maxLoggedName = 100

var errPassword = fault.New(fault.Unauthenticated, "Invalid username/password.")

// Accounts finds users and their API tokens.
type Accounts interface {
	// UserByName returns the user with exactly this name. The error is NotFound if there is none.
	UserByName(ctx context.Context, username string) (pulp.User, error)
	APITokens
	// OnChange registers a function that runs after each change of accounts and API tokens in this process.
	OnChange(f func())
}

// Auth checks passwords. It is safe for concurrent use.
type Auth struct {
	accounts Accounts
	log      *slog.Logger
	now      func() time.Time
	key      [32]byte // HMAC key of digest; each process generates its own
	limit    *limiter
	decoy    string // hash that no password matches, so that a login of an unknown user takes as long as others

	idTokens *IDTokens // nil: tokens of CI jobs are not accepted

	checks *lru.Cache[[32]byte, time.Time]    // the time of the last use of verified credentials, by their digest
	people *external                          // nil: all people are local
	known  *access.Cache[principal, identity] // of bearer tokens
	used   *uses                              // of API tokens

	certificates *certificates // nil: client certificates are not accepted
	observe      func(Method, LoginResult)
}

// New returns an Auth over accounts, which logs refused logins and blocked addresses to log.
func New(accounts Accounts, log *slog.Logger) *Auth {
	checks, err := lru.New[[32]byte, time.Time](checksLimit)
	if err != nil { // the size is a positive constant
		panic(err)
	}
	a := &Auth{
		accounts: accounts,
		log:      log,
		now:      time.Now,
		limit:    newLimiter(runtime.NumCPU(), time.Now),
		decoy:    decoyHash,
		checks:   checks,
		known:    access.NewCache[principal, identity](maxKnown),
		used:     newUses(accounts.APITokensUsed, log),
		observe:  func(Method, LoginResult) {},
	}
	accounts.OnChange(a.known.Purge)
	_, _ = rand.Read(a.key[:]) // never fails: crypto/rand
	return a
}

// Login returns the user with this name and password. It does not limit failed attempts and is for the command line.
// The error is Unauthenticated if the user does not exist, the password is wrong, or the account is not active.
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

// candidate is a login attempt whose password was not compared yet.
type candidate struct {
	user     pulp.User
	known    bool     // the account exists, is active and has a password
	external bool     // a source of people may have the name: no account has it, or an account of a source
	hash     string   // to compare the password with; the decoy if the account is not known
	digest   [32]byte // the key of the credentials in Auth.checks
}

// candidate loads the account. The error is Unauthenticated if no account can have the name.
func (a *Auth) candidate(ctx context.Context, username, password string) (candidate, error) {
	if !pulp.ValidText(username) {
		return candidate{}, errPassword
	}
	u, err := a.accounts.UserByName(ctx, username)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return candidate{}, err
	}
	c := candidate{user: u, known: err == nil && u.Active && u.Hash != "", hash: a.decoy}
	c.external = a.people != nil && username != IDTokenUser && (err != nil || u.Kind == pulp.ExternalUser)
	if c.known {
		c.hash = u.Hash
	}
	// The digest covers the stored hash, so that a change of the password invalidates the cached check.
	c.digest = a.digest(username, password, c.hash)
	return c, nil
}

// login is Login with a limit on the failures of the client address from. Cached credentials pass at once. Other
// attempts wait until the limiter admits them to compute a hash. The error is TooMany, without a hash, if the address
// has too many failures. An unknown user takes as long as a wrong password. The sources of people are asked about names
// that no local account has.
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
	if c.external {
		return a.loginExternal(ctx, from, username, password, c)
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

// warnOfBlocked logs that an address is blocked.
func (a *Auth) warnOfBlocked(ctx context.Context, blocked bool, from string) {
	if blocked {
		a.log.WarnContext(
			ctx,
			"too many failed logins; password logins from the address are refused for up to a minute",
			slog.String("from", from),
			slog.String("network", clientaddr.Network(from).String()),
		)
	}
}

// Basic authenticates the Basic credentials of a request: a user name with a password or an API token, or IDTokenUser
// with a token. Without an Authorization header its client certificate counts; the result is nil if it has none that
// names an active account. The error is Unauthenticated for wrong credentials, and TooMany if the client address
// (RemoteAddr) has too many failures.
func (a *Auth) Basic(r *http.Request) (*access.Caller, error) {
	method, who, err := a.basic(r)
	if who != nil || err != nil { // there are credentials
		a.observe(method, loginResult(err))
	}
	return who, err
}

// basic is Basic, and returns the method of the authentication.
func (a *Auth) basic(r *http.Request) (Method, *access.Caller, error) {
	if r.Header.Get("Authorization") == "" {
		who, err := a.byCertificate(r)
		return ByCertificate, who, err
	}
	username, password, ok := r.BasicAuth()
	if !ok {
		return ByPassword, nil, errPassword
	}
	if a.isIDToken(username, password) {
		who, err := a.byIDToken(r, password)
		return ByIDToken, who, err
	}
	who, err := a.byPassword(r, username, password)
	if fault.Is(err, fault.Unauthenticated) {
		name := username[:min(len(username), maxLoggedName)]
		a.log.WarnContext(r.Context(), "login refused", slog.String("user", name), slog.String("from", r.RemoteAddr))
	}
	return methodOf(password), who, err
}

// byPassword authenticates a password, or an API token as a password.
func (a *Auth) byPassword(r *http.Request, username, password string) (*access.Caller, error) {
	if access.IsSecret(password) {
		return a.byAPIToken(r, password, func(account string) bool { return account == username })
	}
	u, err := a.login(r.Context(), r.RemoteAddr, username, password)
	if err != nil {
		return nil, err
	}
	return &access.Caller{Account: u}, nil
}

func (a *Auth) digest(parts ...string) (sum [32]byte) {
	h := hmac.New(sha256.New, a.key[:])
	for _, p := range parts {
		part := sha256.Sum256([]byte(p)) // the fixed length makes the concatenation unambiguous
		h.Write(part[:])
	}
	h.Sum(sum[:0])
	return sum
}

// remembered reports whether the credentials are cached and were used within checkLife. It records their use.
func (a *Auth) remembered(digest [32]byte) bool {
	now := a.now()
	used, ok := a.checks.Get(digest)
	if !ok || now.Sub(used) >= checkLife {
		return false
	}
	a.checks.Add(digest, now)
	return true
}
