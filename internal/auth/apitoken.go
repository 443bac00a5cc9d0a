package auth

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/clientaddr"
	"github.com/countersign/countersign/internal/fault"
)

// APITokens finds API tokens.
type APITokens interface {
	// APIToken returns the API token with an id. The error is NotFound if there is none.
	APIToken(ctx context.Context, id string) (access.APIToken, error)
	// APITokenByHash returns the API token whose secret has a hash. The error is NotFound if there is none.
	APITokenByHash(ctx context.Context, hash string) (access.APIToken, error)
	// APITokensUsed records when API tokens, by their ids, were last used.
	APITokensUsed(ctx context.Context, at map[string]time.Time) error
}

// byAPIToken authenticates the secret of an API token of an account that of accepts. A refused secret
// counts as a failed login; a blocked address does not hinder valid ones.
func (a *Auth) byAPIToken(r *http.Request, secret string, of func(account string) bool) (*access.Caller, error) {
	who, err := a.apiTokenCaller(r.Context(), secret, of)
	if !fault.Is(err, fault.Unauthenticated) {
		return who, err
	}
	blocked, tooMany := a.limit.fail(clientaddr.Network(r.RemoteAddr))
	if tooMany != nil {
		return nil, tooMany
	}
	a.warnOfBlocked(r.Context(), blocked, r.RemoteAddr)
	return nil, err
}

func (a *Auth) apiTokenCaller(ctx context.Context, secret string, of func(account string) bool) (*access.Caller, error) {
	k, err := a.accounts.APITokenByHash(ctx, access.HashSecret(secret))
	if fault.Is(err, fault.NotFound) || err == nil && (!of(k.Account) || k.Expired(a.now())) {
		return nil, errPassword
	} else if err != nil {
		return nil, err
	}
	u, err := a.account(ctx, k.Account)
	if fault.Is(err, fault.NotFound) || err == nil && (u.ID != k.AccountID || !u.Active) {
		return nil, errPassword
	} else if err != nil {
		return nil, err
	}
	a.used.add(ctx, k.ID, a.now())
	return &access.Caller{Account: u, Token: &k.Token}, nil
}

// Refresh authenticates a refresh token: the secret of an API token, or the token of a CI job. Both say whose they are.
// The error is Unauthenticated if it is refused.
func (a *Auth) Refresh(r *http.Request, token string) (who *access.Caller, err error) {
	method := ByAPIToken
	switch {
	case access.IsSecret(token):
		who, err = a.byAPIToken(r, token, func(string) bool { return true })
	case a.isIDToken(IDTokenUser, token):
		method = ByIDToken
		who, err = a.byIDToken(r, token)
	default:
		err = errPassword
	}
	a.observe(method, loginResult(err))
	return who, err
}

// Refreshes reports whether credentials are a refresh token themselves.
func (a *Auth) Refreshes(username, password string) bool {
	return access.IsSecret(password) || a.isIDToken(username, password)
}

// Limits of uses.
const (
	usesInterval = time.Minute      // between two records of the use of one token
	usesTimeout  = 10 * time.Second // of one record
	maxUses      = 10_000           // tokens whose use is remembered
)

// uses records the uses of API tokens, without delaying requests. It is safe for concurrent use.
type uses struct {
	record func(ctx context.Context, at map[string]time.Time) error
	log    *slog.Logger

	mu       sync.Mutex
	recorded *lru.Cache[string, time.Time] // the time of the last use that was recorded, by the token's id
	waiting  map[string]time.Time
	writing  bool
}

func newUses(record func(context.Context, map[string]time.Time) error, log *slog.Logger) *uses {
	recorded, err := lru.New[string, time.Time](maxUses)
	if err != nil { // the size is a positive constant
		panic(err)
	}
	return &uses{record: record, log: log, recorded: recorded, waiting: map[string]time.Time{}}
}

// add records the use of a token, unless one was recorded within usesInterval.
func (u *uses) add(ctx context.Context, id string, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if last, ok := u.recorded.Get(id); ok && now.Sub(last) < usesInterval {
		return
	}
	u.recorded.Add(id, now)
	u.waiting[id] = now
	if !u.writing {
		u.writing = true
		go u.write(context.WithoutCancel(ctx))
	}
}

// write records the uses that wait until there are none.
func (u *uses) write(ctx context.Context) {
	for {
		u.mu.Lock()
		waiting := u.waiting
		u.waiting = map[string]time.Time{}
		u.writing = len(waiting) > 0
		u.mu.Unlock()
		if len(waiting) == 0 {
			return
		}
		limited, cancel := context.WithTimeout(ctx, usesTimeout)
		if err := u.record(limited, waiting); err != nil {
			u.log.DebugContext(ctx, "cannot record the use of API tokens", slog.Int("tokens", len(waiting)), slog.Any("err", err))
		}
		cancel()
	}
}
