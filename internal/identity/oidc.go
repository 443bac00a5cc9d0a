package identity

import "context"

// OIDCName is the name of the source OIDC.
const OIDCName = "oidc"

// OIDC is the source of people who log in with OpenID Connect. The issuer answers only while a person logs in, so a
// login confirms an account, and nothing else does: Confirmed.Recheck is the validity of a login.
type OIDC struct{}

// Name implements Source.
func (OIDC) Name() string { return OIDCName }

// Authenticate implements Source. Passwords are for the issuer.
func (OIDC) Authenticate(context.Context, string, string) (Person, error) {
	return Person{}, ErrUnknown
}

// Confirm implements Source.
func (OIDC) Confirm(context.Context, string) (Person, error) { return Person{}, ErrUnknown }

// NewPerson returns a person with the texts and the name that a source may give an account. ok is false if no account
// can have the name.
func NewPerson(p Person) (valid Person, ok bool) {
	p.First, p.Last, p.Mail = text(p.First), text(p.Last), text(p.Mail)
	return p, ValidName(p.Name)
}
