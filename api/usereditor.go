package api

import (
	"github.com/countersign/countersign/api/internal/body"
	"github.com/countersign/countersign/internal/pulp"
)

// editor is the relation of a caller to a user that the caller changes.
type editor struct {
	administers bool // the caller is an administrator
	may         bool // the caller has the permission to change users
	own         bool // the user is the caller
	byPassword  bool // the caller authenticated with the password
}

// permit returns an error unless the editor may set the fields of a user. Only administrators change administrators and
// make them. An API token or a certificate cannot change the password of its owner, so that a stolen one does not outlive
// its revocation.
func (e editor) permit(u pulp.User, f userFields) error {
	differs := func(v *bool, from bool) bool { return v != nil && *v != from }
	switch {
	case u.Staff && !e.administers && !e.own,
		differs(f.staff, u.Staff) && !e.administers,
		differs(f.active, u.Active) && !e.may,
		f.username != nil && *f.username != u.Username && !e.may,
		f.password.Set && e.own && !e.byPassword:
		return errDenied
	}
	return nil
}

// noteMaintained notes errors for fields of an account that this server does not maintain: of accounts that are no
// local users only is_active can be changed.
func noteMaintained(b *body.Fields, u pulp.User, f userFields) {
	if u.Kind == pulp.LocalUser {
		return
	}
	for _, name := range f.changed(u) {
		if name != "is_active" && b.Valid(name) {
			b.Fail(name, "Only is_active of an account of the kind '%s' can be changed.", u.Kind)
		}
	}
}
