// Package identity authenticates people against sources outside the database: an htpasswd file and an LDAP directory.
//
// A source knows names, passwords and groups. It grants nothing itself: the caller stores accounts and groups, and
// rights come from there.
package identity

import (
	"context"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/fault"
)

// Limits of names and passwords.
const (
	maxName     = 150 // characters of an account's name, as in Pulp
	maxPassword = 512 // bytes
	maxText     = 254 // bytes of the other texts about a person
)

// Person is a person as a source describes them.
type Person struct {
	Name   string   // of the account: in the source's spelling, whatever the person typed
	ID     string   // KIND=VALUE, the identity in the source, which no other person gets; empty if the source has none
	First  string   // first name
	Last   string   // last name
	Mail   string   // mail address
	Groups []string // groups of this server after the source's mapping, sorted
	Admin  bool     // the person is in one of the source's groups of administrators
}

// Source confirms people. It is safe for concurrent use. Its errors are ErrUnknown, ErrPassword, an outage of
// fault.Directory if the source cannot answer, or the error of the context.
type Source interface {
	// Name returns the name of the source, which accounts and memberships record.
	Name() string
	// Authenticate returns the person with a name and a password.
	Authenticate(ctx context.Context, name, password string) (Person, error)
	// Confirm returns the person with a name, without a password. ErrUnknown means that the source no longer has them.
	Confirm(ctx context.Context, name string) (Person, error)
}

// The errors of credentials. Callers must not let a client distinguish them.
var (
	// ErrUnknown means that the source has no person with the name, or that nobody can have it.
	ErrUnknown = fault.New(fault.Unauthenticated, "Invalid username/password.")
	// ErrPassword means that the source has the person and refuses the password.
	ErrPassword = fault.New(fault.Unauthenticated, "Invalid username/password.")
)

// unavailable returns the error for a source that cannot answer.
func unavailable(cause error) error {
	return fault.NewOutage(fault.Directory, cause, "The source of user accounts does not answer. Try again later.")
}

// ValidName reports whether an account of an external person may have a name: at most 150 letters, digits and @.+-_, as
// in Pulp.
func ValidName(name string) bool {
	return name != "" && utf8.ValidString(name) && utf8.RuneCountInString(name) <= maxName &&
		!strings.ContainsFunc(name, func(r rune) bool {
			return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("@.+-_", r)
		})
}

// askable reports whether a typed name may be sent to a source. It need not be a name of an account: a filter can also
// search for mail addresses or numbers.
func askable(name string) bool {
	return name != "" && len(name) <= maxText && utf8.ValidString(name) && !strings.ContainsFunc(name, unicode.IsControl)
}

// text returns a description of a person if the database can store it and lists can show it, otherwise "".
func text(value string) string {
	value = strings.TrimSpace(value)
	if len(value) > maxText || !utf8.ValidString(value) || strings.ContainsFunc(value, unicode.IsControl) {
		return ""
	}
	return value
}

// sortedUnique sorts names and removes duplicates.
func sortedUnique(names []string) []string {
	slices.Sort(names)
	return slices.Compact(names)
}
