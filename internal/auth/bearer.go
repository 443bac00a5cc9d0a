package auth

import (
	"context"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

// maxKnown is the number of accounts of bearer tokens that are cached.
const maxKnown = 10_000

// Bearer authenticates a bearer token of the registry. The caller is nil for an anonymous token. A token is valid while its
// account is active and has the password with which the token was requested: after a change in this process no longer at
// once, after one in another process within access.CacheLife. The error is Unauthenticated for a token that is not valid.
func (a *Auth) Bearer(ctx context.Context, t *Tokens, text string) (*access.Caller, Bearer, error) {
	b, err := t.Verify(text)
	if err != nil || b.Username == "" {
		return nil, b, err
	}
	user, ok := a.known.Get(b.Username)
	if !ok || !t.BelongsTo(b, user) { // a token may be newer than the cached account
		user, err = a.known.Read(b.Username, func() (pulp.User, error) { return a.account(ctx, b.Username) })
		if fault.Is(err, fault.NotFound) || err == nil && !t.BelongsTo(b, user) {
			err = errToken
		}
		if err != nil {
			return nil, Bearer{}, err
		}
	}
	return &access.Caller{Account: user, Identity: b.Identity}, b, nil
}

// account returns the account with a name, confirmed by its source.
func (a *Auth) account(ctx context.Context, name string) (pulp.User, error) {
	u, err := a.accounts.UserByName(ctx, name)
	if err != nil {
		return u, err
	}
	return a.Confirm(ctx, u)
}
