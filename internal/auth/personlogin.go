package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"net/http"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/oidc"
	"github.com/countersign/countersign/internal/pulp"
)

// challengeLife is the time from a challenge to the login with it.
const challengeLife = 15 * time.Minute

// The parts of a challenge in bytes: the time, random bytes, and an HMAC of both.
const (
	challengeTime   = 8
	challengeRandom = 16
	challengeMAC    = 16
)

// Challenge returns a text that the nonce of an id token must be derived from. Servers do not store it: all servers
// with the same token key accept it.
func (t *Tokens) Challenge() string {
	text := binary.BigEndian.AppendUint64(nil, uint64(t.now().Unix()))
	text = append(text, make([]byte, challengeRandom)...)
	_, _ = rand.Read(text[challengeTime:]) // never fails: crypto/rand
	return base64.RawURLEncoding.EncodeToString(append(text, t.challengeMAC(text)...))
}

// validChallenge reports whether a server issued a challenge within challengeLife.
func (t *Tokens) validChallenge(text string) bool {
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(b) != challengeTime+challengeRandom+challengeMAC {
		return false
	}
	signed, mac := b[:challengeTime+challengeRandom], b[challengeTime+challengeRandom:]
	age := t.now().Sub(time.Unix(int64(binary.BigEndian.Uint64(signed)), 0))
	return hmac.Equal(mac, t.challengeMAC(signed)) && age >= -leeway && age <= challengeLife
}

func (t *Tokens) challengeMAC(signed []byte) []byte {
	h := hmac.New(sha256.New, t.bind)
	h.Write([]byte("login challenge "))
	h.Write(signed)
	return h.Sum(nil)[:challengeMAC]
}

// PersonLogins exchanges the id tokens of people for API tokens. It is safe for concurrent use.
type PersonLogins struct {
	Verifier *oidc.Login
	Tokens   *Tokens
	// UseToken records the only use of an id token. The error is Conflict if it was used before.
	UseToken func(ctx context.Context, issuer, id string, expires time.Time) error
	// Account returns the active account of a person, and creates or updates it. The error is Unauthenticated if the
	// person cannot have an account.
	Account func(ctx context.Context, p oidc.Person) (pulp.User, error)
	// NewToken creates an API token of an account and returns its secret.
	NewToken func(ctx context.Context, account pulp.User, expires time.Time) (string, error)
	Lifetime time.Duration // of the API tokens
}

// PersonLogin is the result of a login.
type PersonLogin struct {
	Account pulp.User
	Token   string // the secret of an API token
	Expires time.Time
}

// LoginPerson exchanges the id token of a person, which is the answer to a challenge, for an API token. Refused tokens
// count as failed logins of the client's address. The error is Unauthenticated if the token is refused or was used
// before.
func (a *Auth) LoginPerson(r *http.Request, l *PersonLogins, idToken, challenge string) (PersonLogin, error) {
	result, err := l.login(r.Context(), a.now(), idToken, challenge)
	err = a.countRefusal(r, err)
	a.observe(ByOpenID, loginResult(err))
	return result, err
}

func (l *PersonLogins) login(ctx context.Context, now time.Time, idToken, challenge string) (PersonLogin, error) {
	if !l.Tokens.validChallenge(challenge) {
		return PersonLogin{}, fault.New(fault.Unauthenticated, "The login took too long, or began at another server. Log in again.")
	}
	p, err := l.Verifier.Verify(ctx, idToken, challenge)
	if err != nil {
		return PersonLogin{}, err
	}
	err = l.UseToken(ctx, "login", p.Token, p.Expiry)
	if fault.Is(err, fault.Conflict) {
		err = fault.New(fault.Unauthenticated, "This id token was used before. Log in again.")
	}
	if err != nil {
		return PersonLogin{}, err
	}
	u, err := l.Account(ctx, p)
	if fault.Is(err, fault.Unauthenticated) {
		return PersonLogin{}, fault.Wrap(fault.Unauthenticated, err,
			"Your account at the issuer cannot be used here: it is disabled, or its name belongs to another account. "+
				"Ask an administrator.")
	}
	if err != nil {
		return PersonLogin{}, err
	}
	expires := now.Add(l.Lifetime)
	token, err := l.NewToken(ctx, u, expires)
	return PersonLogin{Account: u, Token: token, Expires: expires}, err
}
