package auth

import (
	"context"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

// maxKnown is the number of accounts of bearer tokens that are cached.
const maxKnown = 10_000

// principal identifies the account of a bearer token, and the API token with which it was requested; empty for none.
type principal struct{ username, apiToken string }

// identity is a principal as stored.
type identity struct {
	account pulp.User
	token   access.APIToken // zero without an API token
	// credential is that of valid bearer tokens; empty if none was read. It is kept, because the HMAC costs more than
	// the rest of Bearer.
	credential string
}

// Bearer authenticates a bearer token of the registry. The caller is nil for an anonymous token. A token is valid while
// its account is active and has the password with which the token was requested, or while the API token exists and has
// not expired: after a change in this process no longer at once, after one in another process within access.CacheLife.
// The error is Unauthenticated for a token that is not valid.
func (a *Auth) Bearer(ctx context.Context, t *Tokens, text string) (*access.Caller, Bearer, error) {
	who, b, err := a.bearer(ctx, t, text)
	a.observe(ByBearer, loginResult(err))
	return who, b, err
}

func (a *Auth) bearer(ctx context.Context, t *Tokens, text string) (*access.Caller, Bearer, error) {
	b, err := t.Verify(text)
	if err != nil || b.Username == "" {
		return nil, b, err
	}
	key := principal{b.Username, b.APIToken}
	known, ok := a.known.Get(key)
	if !ok || !a.accepts(b, known) { // a token may be newer than the cached account
		known, err = a.known.Read(key, func() (identity, error) {
			read, err := a.identify(ctx, key)
			read.credential = t.credential(read.account, key.apiToken)
			return read, err
		})
		if fault.Is(err, fault.NotFound) || err == nil && !a.accepts(b, known) {
			err = errToken
		}
		if err != nil {
			return nil, Bearer{}, err
		}
	}
	who := &access.Caller{Account: known.account, Identity: b.Identity}
	if b.APIToken != "" {
		who.Token = &known.token.Token
		a.used.add(ctx, b.APIToken, a.now())
	}
	return who, b, nil
}

// accepts reports whether a verified token is valid for an identity.
func (a *Auth) accepts(b Bearer, known identity) bool {
	return belongsTo(b, known.account, known.credential) &&
		(b.APIToken == "" || known.token.AccountID == known.account.ID && !known.token.Expired(a.now()))
}

// identify reads an identity. The error is NotFound if the account or the API token does not exist.
func (a *Auth) identify(ctx context.Context, of principal) (known identity, err error) {
	if known.account, err = a.account(ctx, of.username); err == nil && of.apiToken != "" {
		known.token, err = a.accounts.APIToken(ctx, of.apiToken)
	}
	return known, err
}

// account returns the account with a name, confirmed by its source.
func (a *Auth) account(ctx context.Context, name string) (pulp.User, error) {
	u, err := a.accounts.UserByName(ctx, name)
	if err != nil {
		return u, err
	}
	return a.Confirm(ctx, u)
}
