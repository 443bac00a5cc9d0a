package auth

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/clientaddr"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/oidc"
	"github.com/countersign/countersign/internal/pulp"
)

// IDTokenUser is the user name with which CI jobs send an id token, or a job token, as a password.
const IDTokenUser = "oidc"

// RuleAccounts finds the accounts of rules for id tokens.
type RuleAccounts interface {
	// RuleAccount returns the account of a rule, and creates it if it does not exist. The error is Conflict if an
	// account of another kind has the name.
	RuleAccount(ctx context.Context, username string) (pulp.User, error)
	// UseToken records the only use of a token. The error is Conflict if it was used before.
	UseToken(ctx context.Context, issuer, id string, expires time.Time) error
}

// IDTokens authenticates CI jobs by id tokens of other issuers, and by the job tokens for which they are exchanged. It
// is safe for concurrent use.
type IDTokens struct {
	Verifier *oidc.Verifier
	Accounts RuleAccounts
	Tokens   *Tokens
}

// AcceptIDTokens makes Basic accept tokens of CI jobs. Call it before the first request.
func (a *Auth) AcceptIDTokens(t *IDTokens) { a.idTokens = t }

// isIDToken reports whether credentials are a token of a CI job. A password is not: it is shorter than any token.
func (a *Auth) isIDToken(username, password string) bool {
	return a.idTokens != nil && username == IDTokenUser && len(password) > maxPassword && strings.Count(password, ".") == 2
}

// byIDToken authenticates the token of a CI job. Refused tokens count as failed logins, but a blocked address does not
// hinder valid ones, because the jobs of many projects share addresses.
func (a *Auth) byIDToken(r *http.Request, text string) (*access.Caller, error) {
	who, err := a.idTokens.caller(r.Context(), text)
	return who, a.countRefusal(r, err)
}

// countRefusal counts a refused token as a failed login of the client's address and logs the reason. It returns the
// error for the client.
func (a *Auth) countRefusal(r *http.Request, err error) error {
	if !fault.Is(err, fault.Unauthenticated) {
		return err
	}
	blocked, tooMany := a.limit.fail(clientaddr.Network(r.RemoteAddr))
	if tooMany != nil {
		return tooMany
	}
	a.log.WarnContext(r.Context(), "id token refused", slog.String("from", r.RemoteAddr), slog.Any("err", err))
	a.warnOfBlocked(r.Context(), blocked, r.RemoteAddr)
	return err
}

// caller returns the caller that a token authenticates.
func (t *IDTokens) caller(ctx context.Context, text string) (*access.Caller, error) {
	if t.Tokens.issued(text) {
		return t.jobCaller(ctx, text)
	}
	id, err := t.Verifier.Verify(ctx, text)
	if err != nil {
		return nil, err
	}
	return t.identityCaller(ctx, id)
}

// identityCaller returns the caller for a verified id token.
func (t *IDTokens) identityCaller(ctx context.Context, id oidc.Identity) (*access.Caller, error) {
	u, err := t.Accounts.RuleAccount(ctx, id.Rule.Account())
	if err != nil {
		return nil, err
	}
	if !u.Active {
		return nil, fault.Wrap(fault.Unauthenticated, fmt.Errorf("the account %s is disabled", u.Username), "Invalid token.")
	}
	return &access.Caller{Account: u, Identity: id.String()}, nil
}

// jobCaller returns the caller for a job token. Its rule must still be configured.
func (t *IDTokens) jobCaller(ctx context.Context, text string) (*access.Caller, error) {
	b, err := t.Tokens.verifyJob(text)
	if err != nil {
		return nil, err
	}
	if !t.Verifier.HasAccount(b.Username) {
		return nil, fault.Wrap(fault.Unauthenticated, fmt.Errorf("the rule of %s is no longer configured", b.Username), "Invalid token.")
	}
	u, err := t.Accounts.RuleAccount(ctx, b.Username)
	if err != nil {
		return nil, err
	}
	if !t.Tokens.BelongsTo(b, u) {
		return nil, errToken
	}
	return &access.Caller{Account: u, Identity: b.Identity}, nil
}

// ExchangeIDToken exchanges the id token of a CI job for a job token, once. Refused tokens count as failed logins of
// the client's address. The error is NotFound if id tokens are not accepted, and Unauthenticated if the token is
// refused, has no jti, or was exchanged before.
func (a *Auth) ExchangeIDToken(r *http.Request, text string) (*access.Caller, Issued, error) {
	if a.idTokens == nil {
		return nil, Issued{}, fault.New(fault.NotFound, "This server has no rules for id tokens.")
	}
	who, issued, err := a.idTokens.exchange(r.Context(), text)
	err = a.countRefusal(r, err)
	a.observe(ByIDToken, loginResult(err))
	return who, issued, err
}

func (t *IDTokens) exchange(ctx context.Context, text string) (*access.Caller, Issued, error) {
	id, err := t.Verifier.Verify(ctx, text)
	if err != nil {
		return nil, Issued{}, err
	}
	who, err := t.identityCaller(ctx, id)
	if err != nil {
		return nil, Issued{}, err
	}
	if id.ID == "" {
		return nil, Issued{}, fault.New(fault.Unauthenticated, "An id token without the claim jti cannot be exchanged.")
	}
	err = t.Accounts.UseToken(ctx, id.Rule.Issuer, id.ID, id.Expiry)
	if fault.Is(err, fault.Conflict) {
		err = fault.Wrap(fault.Unauthenticated, fmt.Errorf("the id token was exchanged before: %s", id),
			"This id token was exchanged before. Request another one.")
	}
	if err != nil {
		return nil, Issued{}, err
	}
	issued, err := t.Tokens.issueJob(who)
	return who, issued, err
}
