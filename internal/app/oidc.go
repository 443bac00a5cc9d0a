package app

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/countersign/countersign/api"
	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/oidc"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
)

// idTokens returns the verifier of id tokens with the rules of the configuration.
func (a *App) idTokens() (*oidc.Verifier, error) {
	o := oidc.Options{Log: a.log}
	for _, i := range a.config.OIDC.Issuers {
		private, err := i.Prefixes()
		if err != nil {
			return nil, err
		}
		o.Issuers = append(o.Issuers, oidc.Issuer{
			URL: i.URL, JWKSURI: i.JWKSURI, JWKSFile: i.JWKSFile, CAFile: i.CAFile, MaxLifetime: i.MaxLifetime, AllowPrivate: private,
		})
	}
	for _, r := range a.config.OIDC.Rules {
		rule := oidc.Rule{Name: r.Name, Issuer: r.Issuer, Audience: r.Audience, Claims: map[string][]string{}}
		for name, values := range r.Claims {
			rule.Claims[name] = values
		}
		for _, g := range r.Grants {
			rule.Grants = append(rule.Grants, oidc.Grant{Role: g.Role, Repositories: g.Repositories, SigningServices: g.SigningServices})
		}
		o.Rules = append(o.Rules, rule)
	}
	return oidc.New(o)
}

// loginTokenName is the name of API tokens that people get by logging in.
const loginTokenName = "login"

// personLogins returns the logins of people with OpenID Connect, or nil if they are not configured.
func (a *App) personLogins(s *store.Store, e *engine, tokens *auth.Tokens) (*api.PersonLogins, error) {
	c := a.config.OIDC.Login
	if c.Issuer == "" {
		return nil, nil
	}
	private, err := c.Prefixes()
	if err != nil {
		return nil, err
	}
	claims := map[string][]string{}
	for name, values := range c.Claims {
		claims[name] = values
	}
	verifier, err := oidc.NewLogin(oidc.LoginOptions{
		Issuer:   oidc.Issuer{URL: c.Issuer, CAFile: c.CAFile, AllowPrivate: private},
		ClientID: c.ClientID, Origin: a.config.Public().String(), NameClaim: c.NameClaim, GroupsClaim: c.GroupsClaim,
		Groups: c.Groups, AdminGroups: c.AdminGroups, Claims: claims, WithoutNonce: c.DeviceFlow, Log: a.log,
	})
	if err != nil {
		return nil, err
	}
	logins := &auth.PersonLogins{
		Verifier: verifier, Tokens: tokens, Lifetime: c.Lifetime, UseToken: s.Accounts.UseToken,
		Account: func(ctx context.Context, p oidc.Person) (pulp.User, error) { return a.account(ctx, e.people, p) },
		NewToken: func(ctx context.Context, u pulp.User, expires time.Time) (string, error) {
			_, secret, err := s.Accounts.CreateAPIToken(ctx, access.APIToken{AccountID: u.ID, Name: loginTokenName, Expires: &expires})
			return secret, err
		},
	}
	return &api.PersonLogins{
		Issuer: c.Issuer, ClientID: c.ClientID, Scopes: c.Scopes, DeviceFlow: c.DeviceFlow, Challenge: tokens.Challenge,
		Login: func(r *http.Request, idToken, challenge string) (auth.PersonLogin, error) {
			return e.users.LoginPerson(r, logins, idToken, challenge)
		},
	}, nil
}

// account returns the account of a person who logged in at the issuer. The subject identifies the person: names may get
// another owner.
func (a *App) account(ctx context.Context, people *identity.People, p oidc.Person) (pulp.User, error) {
	person, ok := identity.NewPerson(identity.Person{
		Name: p.Name, ID: "sub=" + p.Subject + "@" + a.config.OIDC.Login.Issuer, First: p.First, Last: p.Last, Mail: p.Mail,
		Groups: p.Groups, Admin: p.Admin,
	})
	if !ok {
		return pulp.User{}, fault.Wrap(fault.Unauthenticated, fmt.Errorf("no account can have the name %.200q", p.Name), "Invalid name.")
	}
	return people.LoggedIn(ctx, identity.OIDCName, person)
}
