package auth

import (
	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
)

// Method is the kind of credentials of a login.
type Method string

// The methods of logins.
const (
	ByPassword    Method = "password"
	ByAPIToken    Method = "api_token"
	ByBearer      Method = "bearer" // a token of the registry
	ByIDToken     Method = "id_token"
	ByCertificate Method = "certificate"
	ByOpenID      Method = "openid" // a person at an issuer
)

// Methods returns all methods.
func Methods() []Method {
	return []Method{ByPassword, ByAPIToken, ByBearer, ByIDToken, ByCertificate, ByOpenID}
}

// LoginResult is the result of a login.
type LoginResult string

// The results of logins.
const (
	Accepted LoginResult = "accepted"
	Refused  LoginResult = "refused"
	Limited  LoginResult = "limited" // too many attempts
	Errored  LoginResult = "error"   // the credentials could not be checked
)

// LoginResults returns all results.
func LoginResults() []LoginResult { return []LoginResult{Accepted, Refused, Limited, Errored} }

// Observe sets the function that receives each use of credentials. Call it before the first request.
func (a *Auth) Observe(f func(Method, LoginResult)) { a.observe = f }

// methodOf returns the method of Basic credentials other than id tokens.
func methodOf(password string) Method {
	if access.IsSecret(password) {
		return ByAPIToken
	}
	return ByPassword
}

// loginResult returns the result for the error of a login.
func loginResult(err error) LoginResult {
	switch {
	case err == nil:
		return Accepted
	case fault.Is(err, fault.Unauthenticated):
		return Refused
	case fault.Is(err, fault.TooMany):
		return Limited
	}
	return Errored
}
