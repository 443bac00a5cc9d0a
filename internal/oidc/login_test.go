package oidc_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/oidc"
	"github.com/countersign/countersign/internal/oidc/oidctest"
)

const challenge = "challenge of the server"

// loginOptions returns the settings of logins with an issuer in the test.
func loginOptions(t *testing.T, i *oidctest.Issuer) oidc.LoginOptions {
	return oidc.LoginOptions{
		Issuer: trusted(t, i), ClientID: oidctest.ClientID, Origin: audience, NameClaim: "preferred_username", GroupsClaim: "groups",
		Groups: map[string]string{"idp-dev": "developers", "idp-ops": "operators"}, AdminGroups: []string{"idp-admin"},
		Claims: map[string][]string{"hd": {"example.com"}},
	}
}

func newLogin(t *testing.T, o oidc.LoginOptions) *oidc.Login {
	t.Helper()
	l, err := oidc.NewLogin(o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestLogin verifies which id tokens of people are accepted, and their persons.
func TestLogin(t *testing.T) {
	t.Parallel()
	i, other := oidctest.New(t), oidctest.New(t)
	l := newLogin(t, loginOptions(t, i))
	nonce := oidc.Nonce(challenge, audience)
	good := i.Person("alice", nonce).With(oidctest.Claims{"hd": "example.com", "given_name": "Alice", "email": "a@example.com"})
	now := time.Now()
	type claims = oidctest.Claims
	for name, tt := range map[string]struct {
		change claims
		refuse string // a part of the reason; empty if the token is accepted
		groups []string
		admin  bool
		mail   string
	}{
		"person":                     {mail: "a@example.com"},
		"groups":                     {change: claims{"groups": []string{"idp-ops", "other", "idp-dev"}}, groups: []string{"developers", "operators"}, mail: "a@example.com"},
		"one group":                  {change: claims{"groups": "idp-dev"}, groups: []string{"developers"}, mail: "a@example.com"},
		"administrator":              {change: claims{"groups": []string{"idp-admin"}}, admin: true, mail: "a@example.com"},
		"group with the local name":  {change: claims{"groups": []string{"developers", "admin"}}, mail: "a@example.com"},
		"unverified mail address":    {change: claims{"email_verified": false}},
		"several audiences":          {change: claims{"aud": []string{"x", oidctest.ClientID}, "azp": oidctest.ClientID}, mail: "a@example.com"},
		"groups as an object":        {change: claims{"groups": claims{"idp-admin": true}}, refuse: "groups is not a list"},
		"group as a number":          {change: claims{"groups": []any{1}}, refuse: "groups is not a list"},
		"another client":             {change: claims{"aud": "x"}, refuse: "expected audience"},
		"issued to another client":   {change: claims{"azp": "x"}, refuse: "issued to the client"},
		"audiences without azp":      {change: claims{"aud": []string{"x", oidctest.ClientID}}, refuse: "issued to the client"},
		"another issuer":             {change: claims{"iss": other.URL}, refuse: "different provider"},
		"expired":                    {change: claims{"exp": now.Unix() - 1, "iat": now.Unix() - 60}, refuse: "expired"},
		"issued long ago":            {change: claims{"iat": now.Add(-11 * time.Minute).Unix()}, refuse: "log in again"},
		"issued in the future":       {change: claims{"iat": now.Add(2 * time.Minute).Unix()}, refuse: "in the future"},
		"no time of issue":           {change: claims{"iat": nil}, refuse: "no iat"},
		"valid for ten years":        {change: claims{"exp": now.AddDate(10, 0, 0).Unix()}, refuse: "is valid for"},
		"no subject":                 {change: claims{"sub": nil}, refuse: "no subject"},
		"no nonce":                   {change: claims{"nonce": nil}, refuse: "no nonce"},
		"nonce as a list":            {change: claims{"nonce": []string{nonce}}, refuse: "nonce of type string"},
		"nonce of another login":     {change: claims{"nonce": oidc.Nonce("another", audience)}, refuse: "nonce of the token"},
		"nonce of another server":    {change: claims{"nonce": oidc.Nonce(challenge, "https://evil.example")}, refuse: "nonce of the token"},
		"challenge as the nonce":     {change: claims{"nonce": challenge}, refuse: "nonce of the token"},
		"another hosted domain":      {change: claims{"hd": "evil.example"}, refuse: "are not those of oidc.login.claims"},
		"no name":                    {change: claims{"preferred_username": nil}, refuse: "no claim preferred_username"},
		"name as a list":             {change: claims{"preferred_username": []string{"alice"}}, refuse: "no claim preferred_username"},
		"expiry in another case too": {change: claims{"exp": nil, "EXP": now.Unix() + 60}, refuse: "no exp"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := l.Verify(t.Context(), i.Token(t, good.With(tt.change)), challenge)
			if tt.refuse != "" {
				if !fault.Is(err, fault.Unauthenticated) || !strings.Contains(err.Error(), tt.refuse) {
					t.Errorf("Verify = %+v, %v, want a refusal with %q", p, err, tt.refuse)
				}
				return
			}
			if err != nil || p.Name != "alice" || p.Subject != "id-of-alice" || p.First != "Alice" || p.Token == "" ||
				!slices.Equal(p.Groups, tt.groups) || p.Admin != tt.admin || p.Mail != tt.mail {
				t.Errorf("Verify = %+v, %v, want %+v", p, err, tt)
			}
		})
	}
	forged := oidctest.Sign(t, jose.SigningKey{Algorithm: jose.RS256, Key: other.Key}, oidctest.KeyID, good)
	if _, err := l.Verify(t.Context(), forged, challenge); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("a token with another key: %v", err)
	}
	if n := i.KeyRequests(); n != 1 {
		t.Errorf("%d requests for keys, want 1", n)
	}
}

// TestLoginWithoutNonce verifies that only an issuer without support for a nonce in the device flow needs none.
func TestLoginWithoutNonce(t *testing.T) {
	t.Parallel()
	i := oidctest.New(t)
	o := loginOptions(t, i)
	o.Claims, o.WithoutNonce = nil, true
	l := newLogin(t, o)
	if _, err := l.Verify(t.Context(), i.Token(t, i.Person("alice", "")), challenge); err != nil {
		t.Errorf("without a nonce: %v", err)
	}
	if _, err := l.Verify(t.Context(), i.Token(t, i.Person("alice", "x")), challenge); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("with another nonce: %v", err)
	}
}

// TestLoginOutage verifies that an issuer that does not respond is an outage, not a refusal.
func TestLoginOutage(t *testing.T) {
	t.Parallel()
	i := oidctest.New(t)
	l := newLogin(t, loginOptions(t, i))
	i.SetFailing(true)
	if _, err := l.Verify(t.Context(), i.Token(t, i.Person("alice", "x")), challenge); !fault.Is(err, fault.Unavailable) {
		t.Errorf("Verify = %v, want Unavailable", err)
	}
}

// TestLoginOptions verifies the errors of settings.
func TestLoginOptions(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(*oidc.LoginOptions)
		want   string
	}{
		"no client":       {func(o *oidc.LoginOptions) { o.ClientID = "" }, "oidc.login.client_id"},
		"no name claim":   {func(o *oidc.LoginOptions) { o.NameClaim = "" }, "oidc.login.name_claim"},
		"no groups claim": {func(o *oidc.LoginOptions) { o.GroupsClaim = "" }, "oidc.login.groups_claim"},
		"issuer":          {func(o *oidc.LoginOptions) { o.Issuer.URL = "http://x" }, "oidc.login.issuer: want https://"},
		"claims":          {func(o *oidc.LoginOptions) { o.Claims = map[string][]string{"hd": {"*"}} }, "oidc.login.claims: hd: want a value"},
	} {
		o := oidc.LoginOptions{
			Issuer: oidc.Issuer{URL: github}, ClientID: "x", NameClaim: "x", GroupsClaim: "groups", AdminGroups: []string{"x"},
		}
		tt.change(&o)
		if _, err := oidc.NewLogin(o); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}
