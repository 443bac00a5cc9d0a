// Package oidc decides which id tokens of CI jobs this server accepts, and the rights that they give.
//
// A Rule of the configuration binds one issuer, one audience and a set of claims to grants: roles on repository names,
// and signing services. A Verifier accepts a token if its issuer is configured, the issuer's keys verify it, it is
// addressed to this server alone, it is short-lived, and its claims match a rule. Nothing else in a token grants
// anything: no claim becomes a user name or a group.
//
// The checks are stricter than those of a login of people, because anybody can obtain valid tokens of a public issuer:
// every user of GitHub is one claim away from every other one.
package oidc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/fault"
)

// Bounds of Issuer.MaxLifetime.
const (
	DefaultMaxLifetime = time.Hour
	minMaxLifetime     = time.Minute
	maxMaxLifetime     = 24 * time.Hour
)

// leeway is the tolerated difference between the clocks of the issuer and of this server.
const leeway = 30 * time.Second

// Issuer is a service whose id tokens rules may accept.
type Issuer struct {
	// URL is the exact value of the claim iss. It uses https; http is accepted for a loopback address that
	// AllowPrivate contains.
	URL string
	// JWKSURI is the URL of the issuer's keys. Empty: the URL in the issuer's discovery document, which must be on the
	// issuer's own host.
	JWKSURI string
	// JWKSFile is a file with the issuer's keys, as an alternative to JWKSURI. No request is sent then.
	JWKSFile string
	// CAFile contains PEM certificates to trust in addition to the system's.
	CAFile string
	// MaxLifetime is the longest accepted time between the claims iat and exp; 0 means DefaultMaxLifetime.
	MaxLifetime time.Duration
	// AllowPrivate are private and loopback addresses that the issuer may have.
	AllowPrivate []netip.Prefix
}

// Options are the dependencies of a Verifier.
type Options struct {
	Issuers []Issuer
	Rules   []Rule
	// Log receives warnings about rules and about issuers that do not respond; nil means no log.
	Log *slog.Logger
	// Now returns the time; nil means time.Now.
	Now func() time.Time
	// Lookup resolves the host names of issuers; nil means the resolver of the system.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
}

// Verifier verifies id tokens. It is safe for concurrent use.
type Verifier struct {
	rules   []Rule
	issuers map[string]*issuer
	now     func() time.Time
}

// issuer is a configured issuer with its keys.
type issuer struct {
	maxLifetime time.Duration
	keys        *keyring
}

// New returns a Verifier. Its error names each issuer and each rule that cannot be used, or that would accept tokens
// of more than one project. New sends no request.
func New(o Options) (*Verifier, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	v := &Verifier{rules: o.Rules, issuers: map[string]*issuer{}, now: o.Now}
	var invalid []error
	for _, i := range o.Issuers {
		if v.issuers[i.URL] != nil {
			invalid = append(invalid, fmt.Errorf("oidc.issuers: %s occurs twice", i.URL))
			continue
		}
		opened, err := openIssuer(i, o)
		if err != nil {
			invalid = append(invalid, fmt.Errorf("oidc.issuers: %s: %w", i.URL, err))
		}
		v.issuers[i.URL] = opened
	}
	names := map[string]bool{}
	for _, r := range o.Rules {
		if err := r.check(names[r.Name], v.issuers[r.Issuer] != nil); err != nil {
			invalid = append(invalid, err)
		} else if !r.bindsByID() {
			o.Log.Warn("a rule for id tokens names its project, but not the project's id: whoever gets the name after "+
				"a rename or a deletion gets the rights of the rule; add a claim such as repository_id or project_id",
				slog.String("rule", r.Name))
		}
		names[r.Name] = true
	}
	if err := errors.Join(invalid...); err != nil {
		return nil, err
	}
	return v, nil
}

// openIssuer checks the settings of an issuer. The result is not nil, so that rules of an invalid issuer are checked
// too.
func openIssuer(i Issuer, o Options) (*issuer, error) {
	if i.MaxLifetime == 0 {
		i.MaxLifetime = DefaultMaxLifetime
	}
	opened := &issuer{maxLifetime: i.MaxLifetime}
	if i.MaxLifetime < minMaxLifetime || i.MaxLifetime > maxMaxLifetime {
		return opened, fmt.Errorf("max_lifetime: want %v to %v, got %v", minMaxLifetime, maxMaxLifetime, i.MaxLifetime)
	}
	s, err := newSource(i, o)
	if err != nil {
		return opened, err
	}
	opened.keys = &keyring{source: s, issuer: i.URL, now: o.Now, log: o.Log}
	return opened, nil
}

// Identity is the result of a verified token.
type Identity struct {
	// Rule is the first rule of the configuration that the token matches.
	Rule Rule
	// Subject is the claim sub. It is for the log only.
	Subject string
	// ID is the claim jti; empty if the token has none.
	ID       string
	IssuedAt time.Time
	Expiry   time.Time
}

// String returns the rule, the subject and the id of the token, for the audit log.
func (i Identity) String() string {
	text := fmt.Sprintf("rule %s, subject %s", i.Rule.Name, i.Subject)
	if i.ID != "" {
		text += ", token " + i.ID
	}
	return text
}

// refusal is the message for clients. The reason is in the cause, for the log only: it would help to forge tokens.
const refusal = "The id token is not accepted; the server's log has the reason."

// refuse returns the error for a token that is not accepted.
func refuse(format string, args ...any) error {
	return fault.Wrap(fault.Unauthenticated, fmt.Errorf(format, args...), refusal)
}

// Rule returns the rule with this name.
func (v *Verifier) Rule(name string) (Rule, bool) {
	for _, r := range v.rules {
		if r.Name == name {
			return r, true
		}
	}
	return Rule{}, false
}

// HasAccount reports whether a user name is that of the account of a rule.
func (v *Verifier) HasAccount(username string) bool {
	name, ok := strings.CutPrefix(username, accountPrefix)
	if ok {
		_, ok = v.Rule(name)
	}
	return ok
}

// Verify verifies a token and returns the first rule that it matches. The error is Unauthenticated if the token is not
// accepted; its cause contains the reason, without the token. It is Unavailable if the keys of the issuer cannot be
// read at present.
func (v *Verifier) Verify(ctx context.Context, text string) (Identity, error) {
	t, err := parse(text)
	if err != nil {
		return Identity{}, err
	}
	url, _ := t.claims.text("iss")
	from := v.issuers[url]
	if from == nil {
		return Identity{}, refuse("the issuer %.200q is not configured", url)
	}
	if err := from.keys.verify(ctx, t); err != nil {
		return Identity{}, err
	}
	id, err := t.identity(v.now(), from.maxLifetime)
	if err != nil {
		return Identity{}, err
	}
	audience, err := t.claims.audience()
	if err != nil {
		return Identity{}, refuse("%w", err)
	}
	for _, r := range v.rules {
		if r.Issuer == url && r.Audience == audience && r.matches(t.claims) {
			id.Rule = r
			return id, nil
		}
	}
	return Identity{}, refuse("no rule matches issuer %.200q, audience %.200q, subject %.200q", url, audience, id.Subject)
}
