package auth_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"net/http"
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

	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

// accounts are users by name.
type accounts map[string]pulp.User

func (a accounts) UserByName(_ context.Context, name string) (pulp.User, error) {
	u, ok := a[name]
	if !ok {
		return u, fault.New(fault.NotFound, "no user")
	}
	return u, nil
}

func hash(t *testing.T, password string) string {
	t.Helper()
	h, err := auth.HashPassword(password)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestLogin(t *testing.T) {
	t.Parallel()
	users := accounts{
		"admin": {ID: 1, Username: "admin", Hash: hash(t, "secret"), Staff: true, Active: true},
		"gone":  {ID: 2, Username: "gone", Hash: hash(t, "secret")},
		"robot": {ID: 3, Username: "robot", Active: true}, // no password
	}
	a := auth.New(users)
	tests := map[string]struct {
		name, password string
		good           bool
	}{
		"the right password":              {"admin", "secret", true},
		"the right password, remembered":  {"admin", "secret", true},
		"a wrong password":                {"admin", "Secret", false},
		"no password":                     {"admin", "", false},
		"a password that is too long":     {"admin", "secret" + strings.Repeat("x", 100), false},
		"a user who is not there":         {"nobody", "secret", false},
		"a user who is not active":        {"gone", "secret", false},
		"a user without a password":       {"robot", "", false},
		"a name that runs into the other": {"admins", "ecret", false},
	}
	for name, tt := range tests {
		u, err := a.Login(t.Context(), tt.name, tt.password)
		if tt.good && (err != nil || u.ID != 1) || !tt.good && !fault.Is(err, fault.Unauthenticated) {
			t.Errorf("%s: %+v, %v", name, u, err)
		}
	}
	// A check that is remembered is worth nothing once the password is another.
	changed := users["admin"]
	changed.Hash = hash(t, "changed")
	users["admin"] = changed
	if _, err := a.Login(t.Context(), "admin", "secret"); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("the old password: %v, want Unauthenticated", err)
	}
	if _, err := a.Login(t.Context(), "admin", "changed"); err != nil {
		t.Errorf("the new password: %v", err)
	}
}

// A login that is refused is logged, with the name and where it came from, and without the password.
func TestRefusedLoginsAreLogged(t *testing.T) {
	t.Parallel()
	a := auth.New(accounts{"admin": {ID: 1, Username: "admin", Hash: hash(t, "secret"), Active: true}})
	var log strings.Builder
	a.Log = slog.New(slog.NewTextHandler(&log, nil))
	for _, c := range []struct{ name, password, want string }{
		{"admin", "secret", ""},
		{"admin", "hunter2", `level=WARN msg="login refused" user=admin from=192.0.2.7:41000`},
		{"x\ny" + strings.Repeat("z", 1000), "hunter2", `user="x\ny` + strings.Repeat("z", 97) + `" from=192.0.2.7:41000`},
	} {
		log.Reset()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.RemoteAddr = "192.0.2.7:41000"
		r.SetBasicAuth(c.name, c.password)
		_, _ = a.Basic(r)
		if got := log.String(); (got == "") != (c.want == "") || !strings.Contains(got, c.want) || strings.Contains(got, "hunter2") {
			t.Errorf("%.20q: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestBasic(t *testing.T) {
	t.Parallel()
	a := auth.New(accounts{"admin": {ID: 1, Username: "admin", Hash: hash(t, "secret"), Active: true}})
	for header, want := range map[string]string{"": "nobody", "Basic YWRtaW46c2VjcmV0": "admin", "Basic YWRtaW46eA==": "refused", "Basic !": "refused", "Bearer x": "refused"} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		if err != nil {
			t.Fatal(err)
		}
		if header != "" {
			r.Header.Set("Authorization", header)
		}
		u, err := a.Basic(r)
		got := "nobody"
		switch {
		case fault.Is(err, fault.Unauthenticated):
			got = "refused"
		case err != nil:
			t.Error(err)
		case u != nil:
			got = u.Username
		}
		if got != want {
			t.Errorf("%q: %s, want %s", header, got, want)
		}
	}
}

func TestHashPassword(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", strings.Repeat("x", 73)} {
		if _, err := auth.HashPassword(bad); !fault.Is(err, fault.Invalid) {
			t.Errorf("HashPassword of %d bytes = %v, want Invalid", len(bad), err)
		}
	}
}

func TestAllow(t *testing.T) {
	t.Parallel()
	admin, acme := &pulp.User{Username: "admin", Staff: true, Active: true}, &pulp.User{Username: "acme", Active: true}
	gone := &pulp.User{Username: "acme", Staff: true}
	public := auth.Object{Path: "acme/app", Exists: true, AnonymousPull: true}
	private, closed, absent := public, public, public
	private.Private, closed.AnonymousPull, absent.Exists = true, false, false
	other := auth.Object{Path: "other/app", Exists: true, AnonymousPull: true}
	hidden, prefix := other, auth.Object{Path: "acmes/app", Exists: true}
	hidden.Private = true
	tests := map[string]struct {
		who  *pulp.User
		what auth.Action
		on   auth.Object
		want bool
	}{
		"nobody pulls what is public":                {nil, auth.Pull, public, true},
		"nobody pulls nothing when that is off":      {nil, auth.Pull, closed, false},
		"nobody pulls nothing private":               {nil, auth.Pull, private, false},
		"nobody pulls what is not there":             {nil, auth.Pull, absent, false},
		"nobody pushes":                              {nil, auth.Push, public, false},
		"nobody views":                               {nil, auth.View, public, false},
		"staff pull what is private":                 {admin, auth.Pull, private, true},
		"staff administer":                           {admin, auth.Administer, auth.Object{}, true},
		"who is not active does nothing":             {gone, auth.Pull, public, false},
		"one pushes under one's own name":            {acme, auth.Push, absent, true},
		"one signs under one's own name":             {acme, auth.Sign, private, true},
		"one pulls one's own private ones":           {acme, auth.Pull, private, true},
		"one does not push under another's":          {acme, auth.Push, other, false},
		"one does not sign another's":                {acme, auth.Sign, other, false},
		"one does not delete another's":              {acme, auth.Delete, other, false},
		"one does not change another's":              {acme, auth.Modify, other, false},
		"one pulls another's public ones":            {acme, auth.Pull, other, true},
		"one does not pull another's private ones":   {acme, auth.Pull, hidden, false},
		"a name that begins alike is another's":      {acme, auth.Push, prefix, false},
		"one does not administer":                    {acme, auth.Administer, auth.Object{Exists: true}, false},
		"one does not view what belongs to nobody":   {acme, auth.View, auth.Object{Exists: true}, false},
		"an action that nobody knows is not allowed": {acme, auth.Action("fly"), public, false},
	}
	for name, tt := range tests {
		if got := auth.Allow(tt.who, tt.what, tt.on); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

// settings keeps one value.
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
		t.Fatalf("the kept key is another after a restart: %v", err)
	}
	access := []auth.Access{{Type: "repository", Name: "acme/app", Actions: []string{"push", "pull"}}}
	issued, err := newTokens(t, key).Issue(&pulp.User{ID: 1, Username: "admin"}, access)
	if err != nil {
		t.Fatal(err)
	}
	got, err := newTokens(t, again).Verify(issued.Token)
	if diff := cmp.Diff(auth.Bearer{Username: "admin", Access: access}, got, cmpopts.IgnoreFields(auth.Bearer{}, "Credential")); err != nil || diff != "" {
		t.Errorf("Verify: %v (-want +got):\n%s", err, diff)
	}
	if !got.Allows("repository", "acme/app", "push") || got.Allows("repository", "acme/app", "delete") || got.Allows("repository", "acme/ap", "pull") || got.Allows("registry", "acme/app", "pull") {
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
	if raw["aud"] != audience || raw["iss"] != issuer || raw["sub"] != "admin" || raw["exp"].(float64)-raw["iat"].(float64) != 300 { //nolint:forcetypeassert // a panic fails the test as well
		t.Errorf("claims: %v", raw)
	}
	if id := parsed.Headers[0].KeyID; len(id) != 59 || strings.Count(id, ":") != 11 {
		t.Errorf("key id %q, want 12 groups of 4", id)
	}
}

// A token that held once, and is remembered, holds no longer than it says.
func TestTokensEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		tokens := newTokens(t, key)
		issued, err := tokens.Issue(&pulp.User{ID: 1, Username: "admin"}, nil)
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
func forge(t *testing.T, algorithm jose.SignatureAlgorithm, key any, o *jose.SignerOptions, change func(map[string]any)) string {
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
	mine, err := tokens.Issue(&pulp.User{ID: 1, Username: "admin"}, nil)
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
		"no algorithm":                     "eyJhbGciOiJub25lIn0." + payload + ".",
		"no signature":                     header + "." + payload + ".",
		"HS256 with the public key":        forge(t, jose.HS256, public, id, nil),
		"HS256 with the public key as PEM": forge(t, jose.HS256, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), id, nil),
		"another key":                      forge(t, jose.ES256, other, nil, nil),
		"another key under our key's id":   forge(t, jose.ES256, other, id, nil),
		"another key that it brings along": forge(t, jose.ES256, other, &jose.SignerOptions{EmbedJWK: true}, nil),
		"a key id that is a path":          forge(t, jose.ES256, other, (&jose.SignerOptions{}).WithHeader("kid", "../../etc/passwd"), nil),
		"another issuer":                   forge(t, jose.ES256, key, id, set("iss", "https://other.example/token/")),
		"another audience":                 forge(t, jose.ES256, key, id, set("aud", "other.example")),
		"our audience among others":        forge(t, jose.ES256, key, id, set("aud", []string{audience, "other.example"})),
		"an end that has passed":           forge(t, jose.ES256, key, id, set("exp", ago)),
		"no end":                           forge(t, jose.ES256, key, id, func(c map[string]any) { delete(c, "exp") }),
		"a beginning that is yet to come":  forge(t, jose.ES256, key, id, set("nbf", ahead)),
		"nothing":                          "",
		"a lot of nothing":                 strings.Repeat("x", 100_000),
		"dots":                             "..",
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

// TestTokensAreBoundToTheirAccount proves that a token stops being valid with the password that its holder logged in with, and that an account
// with the same name or id cannot inherit it.
func TestTokensAreBoundToTheirAccount(t *testing.T) {
	t.Parallel()
	key, err := auth.KeptKey(t.Context(), &settings{})
	if err != nil {
		t.Fatal(err)
	}
	tokens := newTokens(t, key)
	account := pulp.User{ID: 7, Username: "acme", Hash: "$2a$10$one", Active: true, Stamps: pulp.Stamps{Created: time.Unix(1000, 0), Updated: time.Unix(1000, 0)}}
	changed := func(change func(*pulp.User)) pulp.User {
		u := account
		change(&u)
		return u
	}
	issued, err := tokens.Issue(&account, nil)
	if err != nil {
		t.Fatal(err)
	}
	withoutClaim := forge(t, jose.ES256, key, nil, func(c map[string]any) { c["sub"] = "acme" })
	for name, tt := range map[string]struct {
		token string
		user  pulp.User
		want  bool
	}{
		"the account itself":                    {issued.Token, account, true},
		"the account with other settings":       {issued.Token, changed(func(u *pulp.User) { u.Staff, u.Updated = true, time.Unix(2000, 0) }), true},
		"after a change of the password":        {issued.Token, changed(func(u *pulp.User) { u.Hash = "$2a$10$two" }), false},
		"after the password was removed":        {issued.Token, changed(func(u *pulp.User) { u.Hash = "" }), false},
		"disabled":                              {issued.Token, changed(func(u *pulp.User) { u.Active = false }), false},
		"recreated with another id":             {issued.Token, changed(func(u *pulp.User) { u.ID = 8 }), false},
		"recreated with the id and hash":        {issued.Token, changed(func(u *pulp.User) { u.Created = time.Unix(2000, 0) }), false},
		"another account":                       {issued.Token, changed(func(u *pulp.User) { u.Username = "carol" }), false},
		"a token of a version before the claim": {withoutClaim, account, false},
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
	if b, err := tokens.Verify(anonymous.Token); err != nil || b.Username != "" || tokens.BelongsTo(b, pulp.User{Active: true}) {
		t.Errorf("an anonymous token: %+v, %v", b, err)
	}
}
