package identity

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-ldap/ldap/v3"
	"golang.org/x/text/unicode/norm"

	"github.com/countersign/countersign/internal/pulp"
)

// Limits of searches.
const (
	maxGroups = 1000 // groups of one person that the group filter may match
	dnIsID    = "dn" // the value of LDAPOptions.IDAttribute for the distinguished name
)

// LDAPOptions are the settings of an LDAP.
type LDAPOptions struct {
	// URL is ldaps://HOST[:PORT] or ldap://HOST[:PORT].
	URL string
	// StartTLS encrypts connections to an ldap:// URL before anything else is sent.
	StartTLS bool
	CAFile   string // PEM certificates to trust in addition to the system's
	// BindDN and the password are the account that searches. Without BindDN the search is anonymous.
	BindDN       string
	Password     string
	PasswordFile string // its first line replaces Password; it is read for each connection

	UserBase string // people are searched below it
	// UserFilter finds the entry of a person: {name} is the escaped name that the person typed.
	UserFilter string
	// IDAttribute has a value that no other entry ever gets, such as entryUUID. "dn" is the distinguished name.
	IDAttribute    string
	NameAttribute  string // has the one name of the account
	FirstAttribute string
	LastAttribute  string
	MailAttribute  string

	GroupBase string // groups are searched below it; empty: no groups
	// GroupFilter finds the groups of a person: {dn} is the escaped distinguished name of the entry, {name} the name.
	GroupFilter string
	Groups      map[string]string // the group of this server for the distinguished name of a group
	AdminGroups []string          // distinguished names of groups whose members are administrators

	Timeout time.Duration // of one question, over all its requests
	Log     *slog.Logger
}

// LDAP is a Source with people in an LDAP directory. It searches the entry of a person with a service account and then
// binds as the entry on a connection of its own.
type LDAP struct {
	o      LDAPOptions
	groups map[string]string // Groups by normal form of the name
	admins map[string]bool   // AdminGroups in their normal form
	pool   *pool
}

var _ Source = (*LDAP)(nil)

// errNoEntry means that no entry matches the user filter.
var errNoEntry = errors.New("no entry")

// NewLDAP returns a source with the people of a directory. It does not connect. The error names the wrong setting.
func NewLDAP(o LDAPOptions) (*LDAP, error) {
	l := &LDAP{o: o, groups: map[string]string{}, admins: map[string]bool{}}
	if o.IDAttribute == "" || o.NameAttribute == "" || o.Timeout <= 0 {
		return nil, errors.New("ldap: id_attribute, name_attribute and timeout are required")
	}
	for dn, group := range o.Groups {
		key, err := normalDN(dn)
		if err != nil {
			return nil, fmt.Errorf("ldap.groups: want a distinguished name like cn=dev,ou=groups,dc=example, got %q", dn)
		}
		if !validGroup(group) {
			return nil, fmt.Errorf("ldap.groups: want the name of a group for %s, got %q", dn, group)
		}
		l.groups[key] = group
	}
	for _, dn := range o.AdminGroups {
		key, err := normalDN(dn)
		if err != nil {
			return nil, fmt.Errorf("ldap.admin_groups: want a distinguished name like cn=dev,ou=groups,dc=example, got %q", dn)
		}
		l.admins[key] = true
	}
	for setting, dn := range map[string]string{"bind_dn": o.BindDN, "user_base": o.UserBase, "group_base": o.GroupBase} {
		if _, err := normalDN(dn); err != nil && !strings.Contains(dn, "@") { // Active Directory accepts NAME@DOMAIN
			return nil, fmt.Errorf("ldap.%s: want a distinguished name like dc=example,dc=com, got %q", setting, dn)
		}
	}
	if err := checkFilters(o); err != nil {
		return nil, err
	}
	var err error
	l.pool, err = newPool(o)
	return l, err
}

// checkFilters reports an error if a filter is malformed or finds the same entries for everybody.
func checkFilters(o LDAPOptions) error {
	if !strings.Contains(o.UserFilter, "{name}") {
		return fmt.Errorf("ldap.user_filter: want a filter with {name}, like (uid={name}), got %q", o.UserFilter)
	}
	if _, err := ldap.CompileFilter(fill(o.UserFilter, "x", "")); err != nil {
		return fmt.Errorf("ldap.user_filter: %q: %w", o.UserFilter, err)
	}
	if o.GroupBase == "" {
		if len(o.Groups)+len(o.AdminGroups) > 0 {
			return errors.New("ldap.group_base: set it, because groups or admin_groups are set")
		}
		return nil
	}
	if !strings.Contains(o.GroupFilter, "{name}") && !strings.Contains(o.GroupFilter, "{dn}") {
		return fmt.Errorf("ldap.group_filter: want a filter with {dn} or {name}, like (member={dn}), got %q", o.GroupFilter)
	}
	if _, err := ldap.CompileFilter(fill(o.GroupFilter, "x", "cn=x")); err != nil {
		return fmt.Errorf("ldap.group_filter: %q: %w", o.GroupFilter, err)
	}
	return nil
}

// fill replaces the placeholders of a filter by escaped values. Placeholders in the values stay.
func fill(filter, name, dn string) string {
	return strings.NewReplacer("{name}", ldap.EscapeFilter(name), "{dn}", ldap.EscapeFilter(dn)).Replace(filter)
}

// normalDN returns a distinguished name without differences of case, space and order that have no meaning.
func normalDN(dn string) (string, error) {
	parsed, err := ldap.ParseDN(dn)
	if err != nil {
		return "", err
	}
	return strings.ToLower(parsed.String()), nil
}

// Name implements Source.
func (l *LDAP) Name() string { return "ldap" }

// Authenticate implements Source. For an unknown name the directory gets as many requests as for a wrong password.
func (l *LDAP) Authenticate(ctx context.Context, name, password string) (Person, error) {
	// A bind without a password succeeds as anonymous on many servers (RFC 4513 5.1.2).
	if !askable(name) || password == "" || len(password) > maxPassword {
		return Person{}, ErrUnknown
	}
	return ask(ctx, l, func(ctx context.Context) (Person, error) {
		entry, err := l.search(ctx, name)
		if errors.Is(err, errNoEntry) {
			if err := l.pool.bindOnce(ctx, "cn="+rand.Text()+","+l.o.UserBase, rand.Text()); err != nil &&
				!errors.Is(err, ErrPassword) {
				return Person{}, err
			}
			return Person{}, ErrUnknown
		}
		if err != nil {
			return Person{}, err
		}
		if err := l.pool.bindOnce(ctx, entry.DN, password); err != nil {
			if errors.Is(err, ErrPassword) {
				l.o.Log.InfoContext(ctx, "the LDAP directory refuses a password", slog.String("dn", pulp.Printable(entry.DN)),
					slog.String("reason", err.Error()))
				return Person{}, ErrPassword
			}
			return Person{}, err
		}
		return l.person(ctx, entry)
	})
}

// Confirm implements Source.
func (l *LDAP) Confirm(ctx context.Context, name string) (Person, error) {
	if !askable(name) {
		return Person{}, ErrUnknown
	}
	return ask(ctx, l, func(ctx context.Context) (Person, error) {
		entry, err := l.search(ctx, name)
		if errors.Is(err, errNoEntry) {
			return Person{}, ErrUnknown
		}
		if err != nil {
			return Person{}, err
		}
		return l.person(ctx, entry)
	})
}

// Close closes the idle connections.
func (l *LDAP) Close() { l.pool.close() }

// ask limits the time of a question and makes all its errors those of Source.
func ask(ctx context.Context, l *LDAP, question func(context.Context) (Person, error)) (Person, error) {
	limited, cancel := context.WithTimeout(ctx, l.o.Timeout)
	defer cancel()
	p, err := question(limited)
	switch {
	case err == nil, errors.Is(err, ErrUnknown), errors.Is(err, ErrPassword):
		return p, err
	case ctx.Err() != nil: // the caller's, not the time limit
		return Person{}, context.Cause(ctx)
	}
	return Person{}, unavailable(fmt.Errorf("ldap: %w", err))
}

// search returns the one entry of a name, or errNoEntry. Several entries are an error of the configuration; nobody gets
// an account from them.
func (l *LDAP) search(ctx context.Context, name string) (*ldap.Entry, error) {
	var attributes []string
	for _, attribute := range []string{
		l.o.IDAttribute, l.o.NameAttribute, l.o.FirstAttribute, l.o.LastAttribute, l.o.MailAttribute,
	} {
		if attribute != "" && attribute != dnIsID {
			attributes = append(attributes, attribute)
		}
	}
	entries, err := l.pool.search(ctx, &ldap.SearchRequest{
		BaseDN: l.o.UserBase, Scope: ldap.ScopeWholeSubtree, DerefAliases: ldap.NeverDerefAliases,
		SizeLimit: 2, EnforceSizeLimit: true, TimeLimit: l.seconds(),
		Filter: fill(l.o.UserFilter, name, ""), Attributes: attributes,
	})
	switch {
	case tooMany(err) || len(entries) > 1:
		l.refuse(ctx, name, "several entries match ldap.user_filter; want one")
		return nil, errNoEntry
	case err != nil:
		return nil, err
	case len(entries) == 0:
		return nil, errNoEntry
	}
	return entries[0], nil
}

// person describes an entry. The error is ErrUnknown if the entry cannot have an account.
func (l *LDAP) person(ctx context.Context, entry *ldap.Entry) (Person, error) {
	names := entry.GetEqualFoldAttributeValues(l.o.NameAttribute)
	if len(names) != 1 {
		l.refuse(ctx, entry.DN,
			fmt.Sprintf("want one value of ldap.name_attribute (%s), got %d", l.o.NameAttribute, len(names)))
		return Person{}, ErrUnknown
	}
	// The case has no meaning in the directory, but it has one in names of accounts.
	name := norm.NFC.String(strings.ToLower(names[0]))
	if !ValidName(name) {
		l.refuse(ctx, entry.DN, fmt.Sprintf("the name of an account has 1 to %d letters, digits and @.+-_", maxName))
		return Person{}, ErrUnknown
	}
	id, err := l.id(entry)
	if err != nil {
		return Person{}, err
	}
	p := Person{
		Name: name, ID: id,
		First: text(entry.GetEqualFoldAttributeValue(l.o.FirstAttribute)),
		Last:  text(entry.GetEqualFoldAttributeValue(l.o.LastAttribute)),
		Mail:  text(entry.GetEqualFoldAttributeValue(l.o.MailAttribute)),
	}
	if l.o.GroupBase != "" {
		if err := l.addGroups(ctx, &p, entry.DN); err != nil {
			return Person{}, err
		}
	}
	return p, nil
}

// id returns the identity of an entry. If it has none, the configuration is wrong, or the service account may not read
// it: the person is not removed because of that.
func (l *LDAP) id(entry *ldap.Entry) (string, error) {
	kind := strings.ToLower(l.o.IDAttribute) + "="
	if l.o.IDAttribute == dnIsID {
		dn, err := normalDN(entry.DN)
		return kind + dn, err
	}
	value := entry.GetEqualFoldRawAttributeValue(l.o.IDAttribute)
	if len(value) == 0 || len(value) > maxText {
		return "", fmt.Errorf("the entry %s has no usable value of ldap.id_attribute (%s): "+
			"set it to an attribute that identifies entries, such as entryUUID, objectGUID or dn", entry.DN, l.o.IDAttribute)
	}
	if !utf8.Valid(value) || text(string(value)) == "" { // objectGUID
		return kind + hex.EncodeToString(value), nil
	}
	return kind + string(value), nil
}

// addGroups adds the groups of an entry to p. More groups than the limit are an error: some would be missing.
func (l *LDAP) addGroups(ctx context.Context, p *Person, dn string) error {
	entries, err := l.pool.search(ctx, &ldap.SearchRequest{
		BaseDN: l.o.GroupBase, Scope: ldap.ScopeWholeSubtree, DerefAliases: ldap.NeverDerefAliases,
		SizeLimit: maxGroups, EnforceSizeLimit: true, TimeLimit: l.seconds(),
		Filter: fill(l.o.GroupFilter, p.Name, dn), Attributes: []string{"1.1"},
	})
	if tooMany(err) {
		return fmt.Errorf("ldap.group_filter matches more groups of %s than the directory returns (at most %d): narrow it",
			dn, maxGroups)
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		key, err := normalDN(entry.DN)
		if err != nil {
			continue
		}
		if group, mapped := l.groups[key]; mapped {
			p.Groups = append(p.Groups, group)
		}
		p.Admin = p.Admin || l.admins[key]
	}
	p.Groups = sortedUnique(p.Groups)
	return nil
}

// tooMany reports whether more entries match a search than its limit, according to the directory or to the library.
func tooMany(err error) bool {
	return ldap.IsErrorWithCode(err, ldap.LDAPResultSizeLimitExceeded) || errors.Is(err, ldap.ErrSizeLimitExceeded)
}

// refuse logs the reason for which a name or an entry gets no account.
func (l *LDAP) refuse(ctx context.Context, of, reason string) {
	l.o.Log.WarnContext(ctx, "a person of the LDAP directory gets no account", slog.String("of", pulp.Printable(of)),
		slog.String("reason", reason))
}

func (l *LDAP) seconds() int { return int(max(1, l.o.Timeout/time.Second)) }
