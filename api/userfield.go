package api

import (
	"net/mail"
	"unicode/utf8"

	"github.com/countersign/countersign/api/internal/body"
	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/tasks"
)

// accountName is the field that readName reads.
var accountName = body.Text.AtMost(pulp.MaxAccountName)

// userForm are the fields of the bodies of users.
var userForm = body.Form{
	"username":   accountName.Required(),
	"first_name": accountName.Blank(),
	"last_name":  accountName.Blank(),
	"email":      body.Text.Blank().AtMost(maxEmail),
	"is_staff":   body.Bool,
	"is_active":  body.Bool,
	"password":   body.Secret,
}

// userFields are the fields of a user that a body sets.
type userFields struct {
	username, firstName, lastName, email *string
	staff, active                        *bool
	password                             tasks.Optional[string]
	hash                                 string // of the password
}

// apply sets the fields of a user, except the password's hash.
func (f userFields) apply(u *pulp.User) {
	set(&u.Username, f.username)
	set(&u.FirstName, f.firstName)
	set(&u.LastName, f.lastName)
	set(&u.Email, f.email)
	set(&u.Staff, f.staff)
	set(&u.Active, f.active)
}

// changed returns the names of the fields that differ from those of a user.
func (f userFields) changed(old pulp.User) []string {
	after, names := old, []string{}
	f.apply(&after)
	for _, field := range []struct {
		name    string
		differs bool
	}{
		{"username", after.Username != old.Username}, {"first_name", after.FirstName != old.FirstName},
		{"last_name", after.LastName != old.LastName}, {"email", after.Email != old.Email},
		{"is_staff", after.Staff != old.Staff}, {"is_active", after.Active != old.Active}, {"password", f.password.Set},
	} {
		if field.differs {
			names = append(names, field.name)
		}
	}
	return names
}

func set[T any](to, v *T) {
	if v != nil {
		*to = *v
	}
}

// readUser reads and checks the fields of a user. Fields that the body lacks keep their values in old. With whole the
// body must have the user's name.
func readUser(b *body.Fields, old pulp.User, whole bool) userFields {
	f := userFields{
		username:  readName(b, "username", body.RequiredIf(whole)),
		firstName: readName(b, "first_name", body.Blank),
		lastName:  readName(b, "last_name", body.Blank),
		email:     b.Text("email", body.Blank).Value,
		staff:     b.Bool("is_staff"),
		active:    b.Bool("is_active"),
		password:  b.Secret("password"),
	}
	b.Ignore("id", "date_joined", "groups", "hidden_fields", "kind", "source")
	if f.username != nil && *f.username != old.Username && b.Valid("username") && !pulp.ValidUsername(*f.username) {
		b.Fail("username", "Enter a valid username. "+
			"This value may contain only letters, numbers, and @/./+/-/_ characters.")
	}
	if f.email != nil && *f.email != old.Email && *f.email != "" && b.Valid("email") && !validEmail(*f.email) {
		b.Fail("email", "Enter a valid email address.")
	}
	if v, _ := b.Value("password"); v == "" {
		b.Fail("password", "This field may not be blank.")
	}
	return f
}

// readName reads a text of at most 150 characters.
func readName(b *body.Fields, name string, rules ...body.Rule) *string {
	v := b.Text(name, rules...).Value
	if v != nil && utf8.RuneCountInString(*v) > pulp.MaxAccountName {
		b.Fail(name, "Ensure this field has no more than %d characters.", pulp.MaxAccountName)
	}
	return v
}

// maxEmail is the length limit of an address in bytes.
const maxEmail = 254

func validEmail(s string) bool {
	address, err := mail.ParseAddress(s)
	return err == nil && address.Address == s && len(s) <= maxEmail
}

// finishUser finishes the body of a user, checks the password and hashes it. u has the names after the change.
func finishUser(b *body.Fields, f *userFields, u pulp.User) error {
	if err := b.Finish(); err != nil || f.password.Value == nil {
		return err
	}
	password := *f.password.Value
	if err := auth.CheckPasswordLength(password); err != nil {
		return err
	}
	if faults := auth.PasswordFaults(password, u); len(faults) > 0 {
		return &fault.Error{
			Kind: fault.Invalid, Msg: "The password is too weak.", Fields: fault.Fields{"non_field_errors": faults},
		}
	}
	var err error
	f.hash, err = auth.HashPassword(password)
	return err
}
