package app

import "github.com/countersign/countersign/internal/oidc"

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
