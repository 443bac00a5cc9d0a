package oidc

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/oidc/oidctest"
)

// FuzzToken verifies that every text is a token or refused, and that no claim of another type becomes text.
func FuzzToken(f *testing.F) {
	i := oidctest.New(f)
	good := i.GitHub("https://registry.example.com")
	f.Add(i.Token(f, good))
	f.Add(i.Token(f, good.With(oidctest.Fork())))
	f.Add(i.Token(f, oidctest.Claims{"aud": []string{"a", "b"}, "exp": 1e300, "iat": -1, "sub": nil, "jti": []int{1}}))
	f.Add(i.Token(f, oidctest.Claims{"exp": "1", "iat": 1.5, "nbf": json.RawMessage("null"), "sub": "a\x00", "aud": []any{nil}}))
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Add("a.b.c")
	f.Add("{\"payload\":\"e30\",\"signatures\":[]}")
	f.Fuzz(func(t *testing.T, text string) {
		parsed, err := parse(text)
		if err != nil {
			if !fault.Is(err, fault.Unauthenticated) {
				t.Fatalf("not a refusal: %v", err)
			}
			return
		}
		for name, raw := range parsed.claims {
			if _, ok := parsed.claims.text(name); ok && strings.ContainsAny(string(raw[:1]), "[{n") {
				t.Errorf("claim %q = %s is text", name, raw)
			}
		}
		id, err := parsed.identity(time.Now(), DefaultMaxLifetime)
		if err == nil && (id.Subject == "" || len(id.ID) > maxID || id.Expiry.Sub(id.IssuedAt) > DefaultMaxLifetime) {
			t.Errorf("accepted %+v", id)
		}
		_, _ = parsed.claims.audience()
	})
}

// FuzzKeys verifies that every set of keys is refused or has only public keys for signatures.
func FuzzKeys(f *testing.F) {
	key := oidctest.NewKey(f)
	for _, k := range []jose.JSONWebKey{
		oidctest.Public("a", key), {Key: key, KeyID: "private"}, {Key: []byte("secret"), KeyID: "symmetric"},
	} {
		set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{k}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(set)
	}
	f.Add([]byte(`{"keys":[{"kty":"unknown"},{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}`))
	f.Add([]byte(`{"keys":[]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		keys, err := parseKeys(raw)
		if (err == nil) != (len(keys) > 0) {
			t.Fatalf("%d keys, %v", len(keys), err)
		}
		for _, k := range keys {
			if !k.IsPublic() || k.Use == "enc" {
				t.Errorf("key %+v", k)
			}
		}
	})
}

// FuzzValue verifies that a value of a rule matches only texts that are equal or begin with its prefix and go on.
func FuzzValue(f *testing.F) {
	f.Add("refs/tags/v*", "refs/tags/v1")
	f.Add("refs/tags/v*", "refs/tags/v")
	f.Add("refs/heads/main", "refs/heads/main2")
	f.Add("*", "x")
	f.Fuzz(func(t *testing.T, value, text string) {
		matched := matchValue(value, text)
		if err := checkClaim("ref", []string{value}); err != nil {
			return
		}
		prefix := strings.TrimSuffix(value, "*")
		if matched && (!strings.HasPrefix(text, prefix) || (text == prefix) != exact(value)) {
			t.Errorf("%q matches %q", value, text)
		}
	})
}
