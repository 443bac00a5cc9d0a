package oidc_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/oidc"
	"github.com/countersign/countersign/internal/oidc/oidctest"
)

const audience = "https://registry.example.com"

// trusted returns the settings of an issuer in the test.
func trusted(t *testing.T, i *oidctest.Issuer) oidc.Issuer {
	return oidc.Issuer{URL: i.URL, CAFile: i.CAFile(t), AllowPrivate: []netip.Prefix{oidctest.Loopback}}
}

// rule returns a rule for pushes to main, and to tags, of acme/app by its release workflow.
func rule(issuer string) oidc.Rule {
	return oidc.Rule{
		Name: "app", Issuer: issuer, Audience: audience,
		Claims: map[string][]string{
			"repository_id": {"22"}, "repository_owner_id": {"11"}, "ref": {"refs/heads/main", "refs/tags/v*"},
			"event_name":       {"push", "workflow_dispatch"},
			"job_workflow_ref": {"acme/app/.github/workflows/release.yml@*"},
		},
		Grants: []oidc.Grant{{Role: "collaborator", Repositories: []string{"acme/app", "acme/app/*"}}},
	}
}

func open(t *testing.T, o oidc.Options) *oidc.Verifier {
	t.Helper()
	v, err := oidc.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// wantRefused verifies that a token is not accepted for a reason, and that the client does not learn the reason.
func wantRefused(t *testing.T, v *oidc.Verifier, text, reason string) {
	t.Helper()
	id, err := v.Verify(t.Context(), text)
	if !fault.Is(err, fault.Unauthenticated) || !strings.Contains(err.Error(), reason) {
		t.Errorf("Verify = %+v, %v, want a refusal with %q", id, err, reason)
	}
	if message, _ := fault.Message(err); message != "The id token is not accepted; the server's log has the reason." {
		t.Errorf("message %q", message)
	}
}

// TestClaims verifies that a token with valid claims is accepted, and that each other claim is refused.
func TestClaims(t *testing.T) {
	t.Parallel()
	i := oidctest.New(t)
	v := open(t, oidc.Options{Issuers: []oidc.Issuer{trusted(t, i)}, Rules: []oidc.Rule{rule(i.URL)}})
	now := time.Now().Unix()
	type claims = oidctest.Claims
	for name, tt := range map[string]struct {
		change claims
		refuse string // a part of the reason; empty if the token is accepted
	}{
		"push to main":                   {},
		"tag":                            {change: claims{"ref": "refs/tags/v1.2"}},
		"id as a number":                 {change: claims{"repository_id": 22}},
		"list of one audience":           {change: claims{"aud": []string{audience}}},
		"clock of the issuer is ahead":   {change: claims{"iat": now + 20, "nbf": now + 20}},
		"fraction of a second":           {change: claims{"iat": float64(now) - 0.5}},
		"no token id":                    {change: claims{"jti": nil}},
		"fork":                           {change: oidctest.Fork(), refuse: "no rule matches"},
		"name of another owner's copy":   {change: claims{"repository_id": "67"}, refuse: "no rule matches"},
		"another owner":                  {change: claims{"repository_owner_id": "99"}, refuse: "no rule matches"},
		"another branch":                 {change: claims{"ref": "refs/heads/feature"}, refuse: "no rule matches"},
		"branch with the name of a tag":  {change: claims{"ref": "refs/heads/refs/tags/v1"}, refuse: "no rule matches"},
		"branch with main as its prefix": {change: claims{"ref": "refs/heads/main2"}, refuse: "no rule matches"},
		"tag without a version":          {change: claims{"ref": "refs/tags/v"}, refuse: "no rule matches"},
		"ref in upper case":              {change: claims{"ref": "refs/heads/MAIN"}, refuse: "no rule matches"},
		"pull request": {
			change: claims{
				"event_name": "pull_request", "ref": "refs/pull/7/merge", "sub": "repo:acme@11/app@22:pull_request",
			},
			refuse: "no rule matches",
		},
		"pull_request_target on main": {change: claims{"event_name": "pull_request_target"}, refuse: "no rule matches"},
		"another workflow": {
			change: claims{"job_workflow_ref": "acme/app/.github/workflows/lint.yml@refs/heads/main"}, refuse: "no rule matches",
		},
		"reusable workflow of another owner": {
			change: claims{"job_workflow_ref": "evil/x/.github/workflows/release.yml@refs/heads/main"},
			refuse: "no rule matches",
		},
		"claim as a list":             {change: claims{"repository_id": []string{"22"}}, refuse: "no rule matches"},
		"claim as an object":          {change: claims{"repository_id": map[string]any{"22": 1}}, refuse: "no rule matches"},
		"claim in another case":       {change: claims{"ref": nil, "REF": "refs/heads/main"}, refuse: "no rule matches"},
		"claim missing":               {change: claims{"ref": nil}, refuse: "no rule matches"},
		"claim null":                  {change: claims{"ref": json.RawMessage("null")}, refuse: "no rule matches"},
		"issuer with another slash":   {change: claims{"iss": i.URL + "/"}, refuse: "is not configured"},
		"unknown issuer":              {change: claims{"iss": "https://elsewhere.example"}, refuse: "is not configured"},
		"no issuer":                   {change: claims{"iss": nil}, refuse: "is not configured"},
		"another audience":            {change: claims{"aud": "https://github.com/acme"}, refuse: "no rule matches"},
		"audience in another case":    {change: claims{"aud": "https://Registry.example.com"}, refuse: "no rule matches"},
		"audience with another slash": {change: claims{"aud": audience + "/"}, refuse: "no rule matches"},
		"two audiences":               {change: claims{"aud": []string{audience, "sts.example.com"}}, refuse: "exactly one audience"},
		"audience twice":              {change: claims{"aud": []string{audience, audience}}, refuse: "exactly one audience"},
		"no audience":                 {change: claims{"aud": nil}, refuse: "exactly one audience"},
		"audience of another type":    {change: claims{"aud": []any{nil}}, refuse: "exactly one audience"},
		"expired":                     {change: claims{"exp": now - 60}, refuse: "expired"},
		"no expiry":                   {change: claims{"exp": nil}, refuse: "no exp"},
		"expiry in another case":      {change: claims{"exp": nil, "Exp": now + 300}, refuse: "no exp"},
		"expiry as a string":          {change: claims{"exp": "1999999999"}, refuse: "exp is not a time"},
		"expiry beyond all times":     {change: claims{"exp": 1e300}, refuse: "exp is not a time"},
		"negative time":               {change: claims{"nbf": -1}, refuse: "nbf is not a time"},
		"no time of issue":            {change: claims{"iat": nil}, refuse: "no iat"},
		"issued in the future":        {change: claims{"iat": now + 120, "exp": now + 300}, refuse: "in the future"},
		"not yet valid":               {change: claims{"nbf": now + 120}, refuse: "not valid before"},
		"valid for a year":            {change: claims{"exp": now + 365*86400}, refuse: "longer than max_lifetime"},
		"valid for more than an hour": {change: claims{"iat": now - 10, "exp": now + 3600}, refuse: "longer than max_lifetime"},
		"no subject":                  {change: claims{"sub": nil}, refuse: "no subject"},
		"subject as a number":         {change: claims{"sub": 7}, refuse: "sub is not a string"},
		"line break in the subject":   {change: claims{"sub": "a\nb"}, refuse: "control characters"},
		"NUL in the token id":         {change: claims{"jti": "a\x00"}, refuse: "control characters"},
		"long token id":               {change: claims{"jti": strings.Repeat("x", 256)}, refuse: "longer than 255 bytes"},
		"long token":                  {change: claims{"x": strings.Repeat("x", 20_000)}, refuse: "longer than 16384 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			claims := i.GitHub(audience).With(tt.change)
			text := i.Token(t, claims)
			if tt.refuse != "" {
				wantRefused(t, v, text, tt.refuse)
				return
			}
			id, err := v.Verify(t.Context(), text)
			if err != nil {
				t.Fatal(err)
			}
			jti, _ := claims["jti"].(string)
			if id.Rule.Name != "app" || id.Subject != claims["sub"] || id.ID != jti || id.Expiry.Unix() != claims["exp"] {
				t.Errorf("identity %+v of %v", id, claims)
			}
		})
	}
}

// TestForgedTokens verifies that tokens without a valid signature by a key of their issuer are refused.
func TestForgedTokens(t *testing.T) {
	t.Parallel()
	i, other := oidctest.New(t), oidctest.New(t)
	v := open(t, oidc.Options{Issuers: []oidc.Issuer{trusted(t, i)}, Rules: []oidc.Rule{rule(i.URL)}})
	good := i.GitHub(audience)
	payload, err := json.Marshal(good)
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	unsigned := func(header string) string { return b64([]byte(header)) + "." + b64(payload) + "." }
	rs256 := func(key *rsa.PrivateKey) jose.SigningKey { return jose.SigningKey{Algorithm: jose.RS256, Key: key} }
	der, err := x509.MarshalPKIXPublicKey(&i.Key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	secret := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"algorithm none":                     unsigned(`{"alg":"none","kid":"key-1"}`),
		"algorithm none in capitals":         unsigned(`{"alg":"NONE","kid":"key-1"}`),
		"no algorithm":                       unsigned(`{"kid":"key-1"}`),
		"HS256 with the public key":          oidctest.Sign(t, jose.SigningKey{Algorithm: jose.HS256, Key: secret}, "key-1", good),
		"key of another issuer":              oidctest.Sign(t, rs256(other.Key), "key-1", good),
		"unknown key id":                     oidctest.Sign(t, rs256(other.Key), "key-2", good),
		"no key id and another key":          oidctest.Sign(t, rs256(other.Key), "", good),
		"EC key under the id of an RSA key":  oidctest.Sign(t, jose.SigningKey{Algorithm: jose.ES256, Key: ec}, "key-1", good),
		"PS256 with a key for RS256":         oidctest.Sign(t, jose.SigningKey{Algorithm: jose.PS256, Key: i.Key}, "key-1", good),
		"key in the header":                  signRaw(t, other.Key, payload, &jose.SignerOptions{EmbedJWK: true}),
		"URL of keys in the header":          signRaw(t, other.Key, payload, header("jku", other.URL+"/jwks")),
		"URL of a certificate in the header": signRaw(t, other.Key, payload, header("x5u", other.URL+"/x")),
		"critical header":                    signRaw(t, i.Key, payload, header("crit", []string{"exp"})),
		"malformed critical header":          signRaw(t, i.Key, payload, header("crit", "x")),
		"another type of token":              signRaw(t, i.Key, payload, header("typ", "logout+jwt")),
		"type of another kind":               signRaw(t, i.Key, payload, header("typ", 7)),
		"claim twice": signRaw(t, i.Key, []byte(strings.Replace(string(payload), `"repository_id":"22"`,
			`"repository_id":"66","repository_id":"22"`, 1)), header("typ", "JWT")),
		"claim twice in an object": signRaw(t, i.Key, []byte(strings.Replace(string(payload), `{`, `{"x":{"a":1,"a":2},`, 1)),
			header("typ", "JWT")),
		"two objects":        signRaw(t, i.Key, append([]byte(`{}`), payload...), header("typ", "JWT")),
		"list":               signRaw(t, i.Key, []byte(`[]`), header("typ", "JWT")),
		"not UTF-8":          signRaw(t, i.Key, []byte("{\"iss\":\"\xff\"}"), header("typ", "JWT")),
		"changed payload":    replacePayload(i.Token(t, good), "acme", "evil"),
		"no signature":       i.Token(t, good)[:strings.LastIndex(i.Token(t, good), ".")+1],
		"JSON serialization": `{"payload":"` + b64(payload) + `","signatures":[]}`,
		"not a token":        "a.b.c",
		"empty":              "",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wantRefused(t, v, text, "")
		})
	}
	id, err := v.Verify(t.Context(), oidctest.Sign(t, rs256(i.Key), "", good))
	if err != nil || id.Rule.Name != "app" {
		t.Errorf("a token without a key id, of an issuer with one key: %+v, %v", id, err)
	}
}

// header returns the options for a token with the id of the issuer's key and another header.
func header(name jose.HeaderKey, value any) *jose.SignerOptions {
	return (&jose.SignerOptions{}).WithHeader("kid", oidctest.KeyID).WithHeader(name, value)
}

// signRaw signs any bytes as a payload.
func signRaw(t *testing.T, key *rsa.PrivateKey, payload []byte, o *jose.SignerOptions) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: key}, o)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := s.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func replacePayload(text, from, to string) string {
	parts := strings.Split(text, ".")
	payload, _ := base64.RawURLEncoding.DecodeString(parts[1])
	parts[1] = base64.RawURLEncoding.EncodeToString([]byte(strings.ReplaceAll(string(payload), from, to)))
	return strings.Join(parts, ".")
}

// TestFirstRule verifies that a token gets the first rule that it matches.
func TestFirstRule(t *testing.T) {
	t.Parallel()
	i := oidctest.New(t)
	release, any := rule(i.URL), rule(i.URL)
	any.Name, any.Claims = "any", map[string][]string{"repository_id": {"22"}}
	v := open(t, oidc.Options{Issuers: []oidc.Issuer{trusted(t, i)}, Rules: []oidc.Rule{release, any}})
	for ref, want := range map[string]string{"refs/heads/main": "app", "refs/heads/feature": "any"} {
		id, err := v.Verify(t.Context(), i.Token(t, i.GitHub(audience).With(oidctest.Claims{"ref": ref})))
		if err != nil || id.Rule.Name != want {
			t.Errorf("%s: rule %q, %v, want %q", ref, id.Rule.Name, err, want)
		}
	}
	if r, ok := v.Rule("any"); !ok || r.Claims["repository_id"][0] != "22" {
		t.Errorf("Rule(any) = %+v, %t", r, ok)
	}
	if _, ok := v.Rule("none"); ok {
		t.Error("a rule that does not exist is found")
	}
}

// TestReasonsHaveNoToken verifies that neither the error nor the log contains the token.
func TestReasonsHaveNoToken(t *testing.T) {
	t.Parallel()
	i := oidctest.New(t)
	var log strings.Builder
	v := open(t, oidc.Options{
		Issuers: []oidc.Issuer{trusted(t, i)}, Rules: []oidc.Rule{rule(i.URL)},
		Log: slog.New(slog.NewTextHandler(&log, nil)),
	})
	text := i.Token(t, i.GitHub(audience).With(oidctest.Fork()))
	_, err := v.Verify(context.Background(), text)
	if err == nil {
		t.Fatal("the token of a fork is accepted")
	}
	for _, part := range strings.Split(text, ".") {
		if strings.Contains(err.Error()+log.String(), part) {
			t.Errorf("the error or the log contains a part of the token: %v %s", err, log.String())
		}
	}
}
