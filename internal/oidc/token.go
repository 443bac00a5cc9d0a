package oidc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/go-jose/go-jose/v4"

	"github.com/countersign/countersign/internal/strictjson"
)

// Limits of a token.
const (
	maxToken   = 16 << 10 // bytes
	maxSubject = 1024     // bytes of the claim sub
	maxID      = 255      // bytes of the claim jti
)

// algorithms are the signature algorithms that are accepted: all of them need a public key.
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// token is a parsed token. Nothing in it is verified.
type token struct {
	signature *jose.JSONWebSignature
	keyID     string // the header kid
	algorithm string // the header alg
	claims    claims
}

// parse reads a token in compact serialization. Its errors are refusals.
func parse(text string) (*token, error) {
	if len(text) > maxToken {
		return nil, refuse("the token is longer than %d bytes", maxToken)
	}
	s, err := jose.ParseSignedCompact(text, algorithms)
	if err != nil {
		return nil, refuse("not a signed token: %w", err)
	}
	header := s.Signatures[0].Protected
	if kind, set := header.ExtraHeaders[jose.HeaderType]; set {
		// Other tokens of the same issuer with the same key, such as logout+jwt, have another type (RFC 8725, 3.11).
		if name, ok := kind.(string); !ok || !strings.EqualFold(name, "JWT") {
			return nil, refuse("the token's type is %.50q, not JWT", kind)
		}
	}
	if _, set := header.ExtraHeaders["crit"]; set {
		return nil, refuse("the token has critical headers")
	}
	c, err := parseClaims(s.UnsafePayloadWithoutVerification())
	if err != nil {
		return nil, refuse("claims: %w", err)
	}
	return &token{signature: s, keyID: header.KeyID, algorithm: header.Algorithm, claims: c}, nil
}

// claims are the members of a token's payload. Names are compared exactly, as encoding/json does not.
type claims map[string]json.RawMessage

// parseClaims reads a JSON object in which no object has a key twice.
func parseClaims(payload []byte) (claims, error) {
	if err := strictjson.Walk(payload, func(json.Token, int) error { return nil }); err != nil {
		return nil, err
	}
	return strictjson.Object(payload)
}

// text returns a claim that is a string, a number or a boolean, as text. ok is false for all others.
func (c claims) text(name string) (text string, ok bool) {
	raw, set := c[name]
	if !set {
		return "", false
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var value any
	if err := d.Decode(&value); err != nil {
		return "", false
	}
	switch v := value.(type) {
	case string:
		return v, true
	case json.Number:
		return v.String(), true
	case bool:
		return strconv.FormatBool(v), true
	}
	return "", false
}

// printable returns a claim that is a string without control characters of at most limit bytes. An absent claim is the
// empty string.
func (c claims) printable(name string, limit int) (string, error) {
	raw, set := c[name]
	if !set {
		return "", nil
	}
	var text *string
	if err := json.Unmarshal(raw, &text); err != nil || text == nil {
		return "", fmt.Errorf("the claim %s is not a string", name)
	}
	if len(*text) > limit || strings.ContainsFunc(*text, unicode.IsControl) {
		return "", fmt.Errorf("the claim %s is longer than %d bytes or has control characters", name, limit)
	}
	return *text, nil
}

// maxTime is the largest accepted time in seconds since 1970. time.Time can represent it.
const maxTime = 1 << 40

// time returns a claim that is a number of seconds since 1970. set is false if it is absent.
func (c claims) time(name string) (at time.Time, set bool, err error) {
	raw, set := c[name]
	if !set {
		return time.Time{}, false, nil
	}
	var seconds *float64
	if err := json.Unmarshal(raw, &seconds); err != nil || seconds == nil || *seconds < 0 || *seconds > maxTime {
		return time.Time{}, false, fmt.Errorf("the claim %s is not a time", name)
	}
	whole, fraction := math.Modf(*seconds)
	return time.Unix(int64(whole), int64(fraction*1e9)), true, nil
}

// audience returns the only audience of a token. With a second audience, that service could pass the token on to this
// server.
func (c claims) audience() (string, error) {
	raw := c["aud"]
	var one *string
	if err := json.Unmarshal(raw, &one); err == nil && one != nil {
		return *one, nil
	}
	var many []*string
	if err := json.Unmarshal(raw, &many); err != nil || len(many) != 1 || many[0] == nil {
		return "", errors.New("the token does not have exactly one audience")
	}
	return *many[0], nil
}

// identity checks the claims that do not depend on a rule: times and subject.
func (t *token) identity(now time.Time, maxLifetime time.Duration) (Identity, error) {
	subject, subjectErr := t.claims.printable("sub", maxSubject)
	id, idErr := t.claims.printable("jti", maxID)
	expiry, expires, expiryErr := t.claims.time("exp")
	issued, hasIssued, issuedErr := t.claims.time("iat")
	notBefore, hasNotBefore, notBeforeErr := t.claims.time("nbf")
	if err := errors.Join(subjectErr, idErr, expiryErr, issuedErr, notBeforeErr); err != nil {
		return Identity{}, refuse("%w", err)
	}
	switch {
	case subject == "":
		return Identity{}, refuse("the token has no subject")
	case !expires || !hasIssued:
		return Identity{}, refuse("the token has no exp or no iat")
	case now.Add(-leeway).After(expiry):
		return Identity{}, refuse("the token expired at %v", expiry.UTC())
	case now.Add(leeway).Before(issued):
		return Identity{}, refuse("the token is issued in the future, at %v: compare the clocks", issued.UTC())
	case hasNotBefore && now.Add(leeway).Before(notBefore):
		return Identity{}, refuse("the token is not valid before %v", notBefore.UTC())
	case expiry.Sub(issued) > maxLifetime:
		return Identity{}, refuse("the token is valid for %v, longer than max_lifetime of its issuer", expiry.Sub(issued))
	}
	return Identity{Subject: subject, ID: id, IssuedAt: issued, Expiry: expiry}, nil
}
