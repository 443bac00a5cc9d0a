package app

import (
	"context"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/store"
)

// Validity of the confirmations of people in an htpasswd file. Reading it costs nothing.
const (
	htpasswdRecheck   = 10 * time.Second
	htpasswdMaxOutage = time.Hour
)

// users returns the authentication of users, with the configured sources of people, and these sources; nil if there are
// none.
func (a *App) users(ctx context.Context, s *store.Store, entries *audit.Log) (*auth.Auth, *identity.People, error) {
	users := auth.New(s.Accounts, a.log)
	users.Observe(func(m auth.Method, result auth.LoginResult) { a.metrics.Login(string(m), string(result)) })
	if t := a.config.TLS; t.ClientIdentity != "" {
		users.AcceptCertificates(auth.CertificateNames{
			Field: auth.CertificateField(t.ClientIdentity), Pattern: t.ClientIdentityPattern,
		})
	}
	people, err := a.people(ctx, s, entries)
	if people != nil {
		users.UsePeople(people)
	}
	return users, people, err
}

// people returns the configured sources of people. It is nil if there are none.
func (a *App) people(ctx context.Context, s *store.Store, entries *audit.Log) (*identity.People, error) {
	c := a.config
	var sources []identity.Confirmed
	if c.Htpasswd.File != "" {
		file, err := identity.NewHtpasswd(ctx, identity.HtpasswdOptions{
			File: c.Htpasswd.File, GroupFile: c.Htpasswd.GroupFile, AdminGroups: c.Htpasswd.AdminGroups, Log: a.log,
		})
		if err != nil {
			return nil, err
		}
		sources = append(sources, identity.Confirmed{Source: file, Recheck: htpasswdRecheck, MaxOutage: htpasswdMaxOutage})
	}
	if l := c.LDAP; l.URL != "" {
		directory, err := identity.NewLDAP(identity.LDAPOptions{
			URL: l.URL, StartTLS: l.StartTLS, CAFile: l.CAFile, BindDN: l.BindDN, Password: l.Password.Reveal(),
			PasswordFile: l.PasswordFile, UserBase: l.UserBase, UserFilter: l.UserFilter, IDAttribute: l.IDAttribute,
			NameAttribute: l.NameAttribute, FirstAttribute: l.FirstNameAttribute, LastAttribute: l.LastNameAttribute,
			MailAttribute: l.MailAttribute, GroupBase: l.GroupBase, GroupFilter: l.GroupFilter, Groups: l.Groups,
			AdminGroups: l.AdminGroups, Timeout: l.Timeout, Log: a.log,
		})
		if err != nil {
			return nil, err
		}
		sources = append(sources, identity.Confirmed{Source: directory, Recheck: l.Recheck, MaxOutage: l.MaxOutage})
	}
	if l := c.OIDC.Login; l.Issuer != "" {
		sources = append(sources, identity.Confirmed{Source: identity.OIDC{}, Recheck: l.Lifetime, MaxOutage: l.Lifetime})
	}
	if len(sources) == 0 {
		return nil, nil
	}
	return identity.NewPeople(identity.PeopleOptions{
		Accounts: s.Accounts, Sources: sources, Reserved: []string{AdminName}, Log: a.log, Audit: entries,
	}), nil
}
