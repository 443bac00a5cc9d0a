package pulp

import (
	"regexp"
	"strconv"
)

// MaxAccountName is the length limit of the names of users, groups and people in characters.
const MaxAccountName = 150

var usernameForm = regexp.MustCompile(`^[A-Za-z0-9@.+_-]{1,150}$`)

// ValidUsername reports whether a local user can have a name: ASCII letters, digits and @ . + - _, at most 150, and not
// the form of IsRobotName. Names of accounts of other kinds may have other characters.
func ValidUsername(s string) bool { return usernameForm.MatchString(s) && !IsRobotName(s) }

// IsLocalAdministrator reports whether the account is an active administrator with a password of this server. One such
// account always remains.
func (u User) IsLocalAdministrator() bool {
	return u.Kind == LocalUser && u.Staff && u.Active && u.Hash != ""
}

// Group is a set of accounts. Roles that are assigned to a group apply to its members.
type Group struct {
	ID   int64
	Name string
	Stamps
}

// GroupHref returns the href of a group. The ids of groups are numbers.
func GroupHref(id int64) string { return Href(GroupCollection, strconv.FormatInt(id, 10)) }

// Role is a named set of permissions.
type Role struct {
	ID          string
	Name        string
	Description *string
	Permissions []string // sorted
	Locked      bool     // defined by the program and cannot be changed
	Stamps
}

// Assignment is a role of an account or of a group.
type Assignment struct {
	ID        string
	RoleID    string
	Role      string  // its name
	About     *string // the role's description
	AccountID int64   // 0 if the role is a group's
	Account   string  // its name
	GroupID   int64   // 0 if the role is an account's
	Group     string  // its name
	// Object is the object on which the role is assigned, KIND:ID; empty for all objects.
	Object string
	// Repository is the type of the repository that Object names; empty if it names none.
	Repository RepositoryType
	Stamps
}
