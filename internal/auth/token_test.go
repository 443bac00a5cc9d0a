package auth_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

// settings stores one value.
type settings struct{ value []byte }

func (s *settings) SettingOrCreate(_ context.Context, _ string, create func() ([]byte, error)) ([]byte, error) {
	if s.value != nil {
		return s.value, nil
	}
	var err error
	s.value, err = create()
	return s.value, err
}

const issuer, audience = "https://registry.example/token/", "registry.example"

func newTokens(t *testing.T, key *ecdsa.PrivateKey) *auth.Tokens {
	t.Helper()
	tokens, err := auth.NewTokens(key, issuer, audience, 5*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

func TestTokensRoundTrip(t *testing.T) {
	t.Parallel()
	kept := &settings{}
	key, err := auth.KeptKey(t.Context(), kept)
	if err != nil {
		t.Fatal(err)
	}
	again, err := auth.KeptKey(t.Context(), kept)
	if err != nil || !again.Equal(key) {
		t.Fatalf("the stored key differs after a restart: %v", err)
	}
	granted := []auth.Access{{Type: "repository", Name: "acme/app", Actions: []string{"push", "pull"}}}
	issued, err := newTokens(t, key).Issue(&access.Caller{Account: pulp.User{ID: 1, Username: "admin"}}, granted)
	if err != nil {
		t.Fatal(err)
	}
	got, err := newTokens(t, again).Verify(issued.Token)
	if diff := cmp.Diff(auth.Bearer{Username: "admin", Access: granted}, got, cmpopts.IgnoreFields(auth.Bearer{}, "Credential")); err != nil ||
		diff != "" {
		t.Errorf("Verify: %v (-want +got):\n%s", err, diff)
	}
	if !got.Allows("repository", "acme/app", "push") || got.Allows("repository", "acme/app", "delete") ||
		got.Allows("repository", "acme/ap", "pull") ||
		got.Allows("registry", "acme/app", "pull") {
		t.Errorf("%+v allows something else", got)
	}
	parsed, err := jwt.ParseSigned(issued.Token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	var raw map[string]any
	if err := parsed.UnsafeClaimsWithoutVerification(&raw); err != nil {
		t.Fatal(err)
	}
	if raw["aud"] != audience || raw["iss"] != issuer || raw["sub"] != "admin" ||
		raw["exp"].(float64)-raw["iat"].(float64) != 300 { //nolint:forcetypeassert // a panic fails the test as well
		t.Errorf("claims: %v", raw)
	}
	if id := parsed.Headers[0].KeyID; len(id) != 59 || strings.Count(id, ":") != 11 {
		t.Errorf("key id %q, want 12 groups of 4", id)
	}
}

// TestTokensEnd checks that a cached token expires.
func TestTokensEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		tokens := newTokens(t, key)
		issued, err := tokens.Issue(&access.Caller{Account: pulp.User{ID: 1, Username: "admin"}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, wait := range []time.Duration{0, issued.Lifetime} {
			time.Sleep(wait)
			if _, err := tokens.Verify(issued.Token); err != nil {
				t.Errorf("%v after it was issued: %v", wait, err)
			}
		}
		time.Sleep(10 * time.Second) // clocks may be 5 s apart
		if _, err := tokens.Verify(issued.Token); !fault.Is(err, fault.Unauthenticated) {
			t.Errorf("after its end: %v", err)
		}
	})
}

// forge signs claims with any key and algorithm.
func forge(
	t *testing.T,
	algorithm jose.SignatureAlgorithm,
	key any,
	o *jose.SignerOptions,
	change func(map[string]any),
) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, o)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	claims := map[string]any{
		"iss": issuer, "aud": audience, "sub": "admin", "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Minute).Unix(),
		"access": []any{map[string]any{"type": "repository", "name": "acme/app", "actions": []string{"push"}}},
	}
	if change != nil {
		change(claims)
	}
	text, err := jwt.Signed(s).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestForgedTokens(t *testing.T) {
	t.Parallel()
	key, err := auth.KeptKey(t.Context(), &settings{})
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	tokens := newTokens(t, key)
	mine, err := tokens.Issue(&access.Caller{Account: pulp.User{ID: 1, Username: "admin"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := jwt.ParseSigned(mine.Token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	id := (&jose.SignerOptions{}).WithHeader("kid", parsed.Headers[0].KeyID)
	set := func(name string, v any) func(map[string]any) { return func(c map[string]any) { c[name] = v } }
	ago, ahead := time.Now().Add(-time.Minute).Unix(), time.Now().Add(time.Minute).Unix()
	header, payload, _ := strings.Cut(mine.Token, ".")
	payload, _, _ = strings.Cut(payload, ".")
	tests := map[string]string{
		"no algorithm":              "eyJhbGciOiJub25lIn0." + payload + ".",
		"no signature":              header + "." + payload + ".",
		"HS256 with the public key": forge(t, jose.HS256, public, id, nil),
		"HS256 with the public key as PEM": forge(
			t,
			jose.HS256,
			pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}),
			id,
			nil,
		),
		"another key":                      forge(t, jose.ES256, other, nil, nil),
		"another key under our key's id":   forge(t, jose.ES256, other, id, nil),
		"another key that it brings along": forge(t, jose.ES256, other, &jose.SignerOptions{EmbedJWK: true}, nil),
		"a key id that is a path": forge(
			t,
			jose.ES256,
			other,
			(&jose.SignerOptions{}).WithHeader("kid", "../../etc/passwd"),
			nil,
		),
		"another issuer":   forge(t, jose.ES256, key, id, set("iss", "https://other.example/token/")),
		"another audience": forge(t, jose.ES256, key, id, set("aud", "other.example")),
		"our audience among others": forge(
			t,
			jose.ES256,
			key,
			id,
			set("aud", []string{audience, "other.example"}),
		),
		"an end that has passed":          forge(t, jose.ES256, key, id, set("exp", ago)),
		"no end":                          forge(t, jose.ES256, key, id, func(c map[string]any) { delete(c, "exp") }),
		"a beginning that is yet to come": forge(t, jose.ES256, key, id, set("nbf", ahead)),
		"nothing":                         "",
		"a lot of nothing":                strings.Repeat("x", 100_000),
		"dots":                            "..",
	}
	for name, text := range tests {
		if got, err := tokens.Verify(text); !fault.Is(err, fault.Unauthenticated) {
			t.Errorf("%s: %+v, %v, want Unauthenticated", name, got, err)
		}
	}
	if _, err := tokens.Verify(forge(t, jose.ES256, key, id, nil)); err != nil {
		t.Errorf("a good one by the same means: %v", err)
	}
}

func TestReadKey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	pair := func(curve elliptic.Curve, name string) (private, public string, key *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		sec1, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		return write(name+".key", "EC PRIVATE KEY", sec1), write(name+".pub", "PUBLIC KEY", spki), key
	}
	private, public, key := pair(elliptic.P256(), "one")
	if got, err := auth.ReadKey(private, public); err != nil || !got.Equal(key) {
		t.Errorf("ReadKey = %v", err)
	}
	_, other, _ := pair(elliptic.P256(), "two")
	wrongCurve, wrongPublic, _ := pair(elliptic.P384(), "three")
	for name, files := range map[string][2]string{
		"another's public key": {private, other}, "another curve": {wrongCurve, wrongPublic}, "the files swapped": {public, private}, "no file": {filepath.Join(dir, "no"), public},
	} {
		if _, err := auth.ReadKey(files[0], files[1]); err == nil {
			t.Errorf("%s: ReadKey succeeded", name)
		}
	}
}

// TestTokensAreBoundToTheirAccount checks that a token is invalid after a change of the password, and for another
// account with the same name or id.
func TestTokensAreBoundToTheirAccount(t *testing.T) {
	t.Parallel()
	key, err := auth.KeptKey(t.Context(), &settings{})
	if err != nil {
		t.Fatal(err)
	}
	tokens := newTokens(t, key)
	account := pulp.User{
		ID:       7,
		Username: "acme",
		Hash:     "$2a$10$one",
		Active:   true,
		Stamps:   pulp.Stamps{Created: time.Unix(1000, 0), Updated: time.Unix(1000, 0)},
	}
	changed := func(change func(*pulp.User)) pulp.User {
		u := account
		change(&u)
		return u
	}
	issued, err := tokens.Issue(&access.Caller{Account: account}, nil)
	if err != nil {
		t.Fatal(err)
	}
	withoutClaim := forge(t, jose.ES256, key, nil, func(c map[string]any) { c["sub"] = "acme" })
	for name, tt := range map[string]struct {
		token string
		user  pulp.User
		want  bool
	}{
		"the account itself":                    {token: issued.Token, user: account, want: true},
		"the account with other settings":       {token: issued.Token, user: changed(func(u *pulp.User) { u.Staff, u.Updated = true, time.Unix(2000, 0) }), want: true},
		"after a change of the password":        {token: issued.Token, user: changed(func(u *pulp.User) { u.Hash = "$2a$10$two" })},
		"after the password was removed":        {token: issued.Token, user: changed(func(u *pulp.User) { u.Hash = "" })},
		"disabled":                              {token: issued.Token, user: changed(func(u *pulp.User) { u.Active = false })},
		"recreated with another id":             {token: issued.Token, user: changed(func(u *pulp.User) { u.ID = 8 })},
		"recreated with the id and hash":        {token: issued.Token, user: changed(func(u *pulp.User) { u.Created = time.Unix(2000, 0) })},
		"another account":                       {token: issued.Token, user: changed(func(u *pulp.User) { u.Username = "carol" })},
		"a token of a version before the claim": {token: withoutClaim, user: account},
	} {
		b, err := tokens.Verify(tt.token)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := tokens.BelongsTo(b, tt.user); got != tt.want {
			t.Errorf("%s: BelongsTo = %v, want %v", name, got, tt.want)
		}
	}
	anonymous, err := tokens.Issue(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := tokens.Verify(anonymous.Token); err != nil || b.Username != "" ||
		tokens.BelongsTo(b, pulp.User{Active: true}) {
		t.Errorf("an anonymous token: %+v, %v", b, err)
	}
}
