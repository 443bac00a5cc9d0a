package oidc

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	goidc "github.com/coreos/go-oidc/v3/oidc"
)

// maxIssued is the longest accepted time from the issue of an id token to the login with it.
const maxIssued = 10 * time.Minute

// maxGroups is the maximum number of groups in an id token.
const maxGroups = 1000

// LoginOptions configure logins of people with id tokens.
type LoginOptions struct {
	// Issuer is the issuer of the tokens. MaxLifetime has no effect.
	Issuer Issuer
	// ClientID is the name of the command line's program at the issuer: a public client.
	ClientID string
	// Origin is the normal form of the URL of this server, scheme://host[:port]. The nonce of a token contains it.
	Origin string
	// NameClaim is the claim with the name of the account.
	NameClaim string
	// GroupsClaim is the claim with the groups of the person; empty: no groups.
	GroupsClaim string
	// Groups maps groups of the issuer to groups of this server. Others have no effect.
	Groups map[string]string
	// AdminGroups are groups of the issuer whose members are administrators.
	AdminGroups []string
	// Claims are the claims that a token must have, as those of a Rule. Empty: everybody with an account at the issuer
	// may log in.
	Claims map[string][]string
	// WithoutNonce accepts tokens without a nonce, which issuers without support for it send in the device flow.
	WithoutNonce bool
	// Log receives warnings about an issuer that does not respond; nil means no log.
	Log *slog.Logger
	// Now returns the time; nil means time.Now.
	Now func() time.Time
	// Lookup resolves the host name of the issuer; nil means the resolver of the system.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
}

// Login verifies the id tokens of people. It is safe for concurrent use.
type Login struct {
	o        LoginOptions
	keys     *keyring
	verifier *goidc.IDTokenVerifier
}

// NewLogin returns a Login. Its error names the setting that is wrong. It sends no request.
func NewLogin(o LoginOptions) (*Login, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.ClientID == "" {
		return nil, errors.New("oidc.login.client_id: want the name of the client at the issuer")
	}
	if o.NameClaim == "" {
		return nil, errors.New("oidc.login.name_claim: want the name of a claim, such as preferred_username")
	}
	if len(o.AdminGroups)+len(o.Groups) > 0 && o.GroupsClaim == "" {
		return nil, errors.New("oidc.login.groups_claim: set it, because groups or admin_groups is set")
	}
	for name, values := range o.Claims {
		if err := checkClaim(name, values); err != nil {
			return nil, fmt.Errorf("oidc.login.claims: %s: %w", name, err)
		}
	}
	opened, err := openIssuer(o.Issuer, Options{Log: o.Log, Now: o.Now, Lookup: o.Lookup})
	if err != nil {
		return nil, fmt.Errorf("oidc.login.issuer: %w", err)
	}
	names := make([]string, len(algorithms))
	for i, a := range algorithms {
		names[i] = string(a)
	}
	return &Login{o: o, keys: opened.keys, verifier: goidc.NewVerifier(o.Issuer.URL, loginKeys{opened.keys}, &goidc.Config{
		ClientID: o.ClientID, SupportedSigningAlgs: names, Now: o.Now,
	})}, nil
}

// loginKeys are the keys of an issuer for go-oidc, which would request them for each forged token.
type loginKeys struct{ keys *keyring }

// VerifySignature implements goidc.KeySet.
func (k loginKeys) VerifySignature(ctx context.Context, text string) ([]byte, error) {
	t, err := parse(text)
	if err != nil {
		return nil, err
	}
	return t.signature.UnsafePayloadWithoutVerification(), k.keys.verify(ctx, t)
}

// Person is the result of a verified id token.
type Person struct {
	Subject string // at the issuer, which gives it to no other person
	Name    string // of the account; not checked
	First   string // first name
	Last    string // last name
	Mail    string
	Groups  []string // groups of this server, sorted
	Admin   bool     // the person is in a group of administrators
	Token   string   // identifies the token, so that it is used once
	Expiry  time.Time
}

// Nonce returns the nonce that the id token for a login must have. It binds the challenge of the server to the URL that
// the person called, so that another server cannot use a token that it has received.
func Nonce(challenge, origin string) string {
	sum := sha256.Sum256([]byte(challenge + "\n" + origin))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// Verify verifies the id token of a login to which the server gave a challenge. The error is Unauthenticated if the
// token is not accepted; its cause contains the reason, without the token. It is Unavailable if the keys of the issuer
// cannot be read at present. The caller verifies the challenge, and that the token is used once.
func (l *Login) Verify(ctx context.Context, text, challenge string) (Person, error) {
	t, err := parse(text)
	if err != nil {
		return Person{}, err
	}
	if err := l.keys.verify(ctx, t); err != nil { // before go-oidc, which hides the kind of the error
		return Person{}, err
	}
	verified, err := l.verifier.Verify(ctx, text)
	if err != nil {
		return Person{}, refuse("%w", err)
	}
	id, err := t.identity(l.o.Now(), maxMaxLifetime)
	if err != nil {
		return Person{}, err
	}
	if err := l.check(t.claims, id, verified, challenge); err != nil {
		return Person{}, refuse("%w", err)
	}
	return l.person(t, id)
}

// check verifies the claims that go-oidc does not check: the nonce, the age, the party to which the token was issued,
// and the configured claims.
func (l *Login) check(c claims, id Identity, verified *goidc.IDToken, challenge string) error {
	party, hasParty := c.text("azp")
	nonce, hasNonce := c.text("nonce")
	switch {
	case l.o.Now().Sub(id.IssuedAt) > maxIssued:
		return fmt.Errorf("the token was issued at %v: log in again", id.IssuedAt.UTC())
	case hasParty && party != l.o.ClientID, !hasParty && len(verified.Audience) > 1:
		return fmt.Errorf("the token was issued to the client %.100q", party)
	case hasNonce && nonce != Nonce(challenge, l.o.Origin):
		return errors.New("the nonce of the token is not that of this login at this server")
	case !hasNonce && !l.o.WithoutNonce:
		return errors.New("the token has no nonce: the device flow needs oidc.login.device_flow")
	case !Rule{Claims: l.o.Claims}.matches(c):
		return fmt.Errorf("the claims of %.200q are not those of oidc.login.claims", id.Subject)
	}
	return nil
}

// person returns the person of a verified token.
func (l *Login) person(t *token, id Identity) (Person, error) {
	name, _ := t.claims.text(l.o.NameClaim)
	if name == "" {
		return Person{}, refuse("the token of %.200q has no claim %s: request the scope that contains it", id.Subject, l.o.NameClaim)
	}
	p := Person{Subject: id.Subject, Name: name, Expiry: id.Expiry}
	p.First, _ = t.claims.text("given_name")
	p.Last, _ = t.claims.text("family_name")
	if verified, set := t.claims.text("email_verified"); !set || verified == "true" {
		p.Mail, _ = t.claims.text("email")
	}
	groups, err := l.groups(t.claims)
	if err != nil {
		return Person{}, refuse("%w", err)
	}
	for _, g := range groups {
		if here := l.o.Groups[g]; here != "" {
			p.Groups = append(p.Groups, here)
		}
		p.Admin = p.Admin || slices.Contains(l.o.AdminGroups, g)
	}
	slices.Sort(p.Groups)
	p.Groups = slices.Compact(p.Groups)
	sum := sha256.Sum256(t.signature.UnsafePayloadWithoutVerification())
	p.Token = hex.EncodeToString(sum[:])
	return p, nil
}

// groups returns the groups of a person at the issuer: a list of strings, or one string.
func (l *Login) groups(c claims) ([]string, error) {
	raw, set := c[l.o.GroupsClaim]
	if !set || l.o.GroupsClaim == "" {
		return nil, nil
	}
	var one string
	if err := json.Unmarshal(raw, &one); err == nil {
		return []string{one}, nil
	}
	var many []string
	if err := json.Unmarshal(raw, &many); err != nil || len(many) > maxGroups {
		return nil, fmt.Errorf("the claim %s is not a list of at most %d groups", l.o.GroupsClaim, maxGroups)
	}
	return many, nil
}
