package oidc_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/oidc"
	"github.com/countersign/countersign/internal/oidc/oidctest"
)

// clock is a clock that tests set.
type clock struct {
	mu    sync.Mutex
	ahead time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
}

// at returns claims that are valid at the time of the clock.
func (c *clock) at(i *oidctest.Issuer) oidctest.Claims {
	now := c.now().Unix()
	return i.GitHub(audience).With(oidctest.Claims{"iat": now, "exp": now + 300})
}

func rs256(key *rsa.PrivateKey) jose.SigningKey {
	return jose.SigningKey{Algorithm: jose.RS256, Key: key}
}

// TestKeyRotation verifies that new keys of an issuer are accepted, that removed keys are refused, and that tokens with
// unknown keys cause at most one request a minute.
func TestKeyRotation(t *testing.T) {
	t.Parallel()
	i := oidctest.New(t)
	c := &clock{}
	v := open(t, oidc.Options{Issuers: []oidc.Issuer{trusted(t, i)}, Rules: []oidc.Rule{rule(i.URL)}, Now: c.now})
	verify := func(key *rsa.PrivateKey, id string) error {
		_, err := v.Verify(t.Context(), oidctest.Sign(t, rs256(key), id, c.at(i)))
		return err
	}
	if err := verify(i.Key, oidctest.KeyID); err != nil {
		t.Fatal(err)
	}
	next := oidctest.NewKey(t)
	for range 50 {
		if err := verify(next, "key-2"); !fault.Is(err, fault.Unauthenticated) {
			t.Fatalf("an unknown key: %v", err)
		}
	}
	if got := i.KeyRequests(); got != 1 {
		t.Errorf("50 tokens with an unknown key: %d requests for keys, want 1", got)
	}
	i.SetKeys(oidctest.Public("key-2", next))
	c.add(61 * time.Second)
	if err := verify(next, "key-2"); err != nil {
		t.Errorf("the new key: %v", err)
	}
	if err := verify(i.Key, oidctest.KeyID); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("the removed key: %v", err)
	}
	if got := i.KeyRequests(); got != 2 {
		t.Errorf("%d requests for keys, want 2", got)
	}
	i.SetKeys(oidctest.Public(oidctest.KeyID, i.Key))
	c.add(61 * time.Minute)
	if err := verify(next, "key-2"); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("a key that was removed an hour ago: %v", err)
	}
}

// TestOutage verifies that known keys are used for a day while the issuer does not respond, and no longer.
func TestOutage(t *testing.T) {
	t.Parallel()
	i := oidctest.New(t)
	c := &clock{}
	v := open(t, oidc.Options{Issuers: []oidc.Issuer{trusted(t, i)}, Rules: []oidc.Rule{rule(i.URL)}, Now: c.now})
	verify := func() error {
		_, err := v.Verify(t.Context(), i.Token(t, c.at(i)))
		return err
	}
	i.SetFailing(true)
	if err := verify(); !fault.Is(err, fault.Unavailable) || fault.RetryAfter(err) == 0 {
		t.Errorf("no keys: %v, retry after %v", err, fault.RetryAfter(err))
	}
	i.SetFailing(false)
	if err := verify(); !fault.Is(err, fault.Unavailable) {
		t.Errorf("a second attempt within a minute: %v", err)
	}
	c.add(61 * time.Second)
	if err := verify(); err != nil {
		t.Errorf("the issuer responds again: %v", err)
	}
	i.SetFailing(true)
	c.add(23 * time.Hour)
	if err := verify(); err != nil {
		t.Errorf("keys of 23 hours ago: %v", err)
	}
	c.add(2 * time.Hour)
	if err := verify(); !fault.Is(err, fault.Unavailable) {
		t.Errorf("keys of 25 hours ago: %v", err)
	}
}

// TestCanceledRequest verifies that a client that hangs up does not spoil the request for keys of others.
func TestCanceledRequest(t *testing.T) {
	t.Parallel()
	i := oidctest.New(t)
	v := open(t, oidc.Options{Issuers: []oidc.Issuer{trusted(t, i)}, Rules: []oidc.Rule{rule(i.URL)}})
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	text := i.Token(t, i.GitHub(audience))
	_, _ = v.Verify(gone, text) // canceled, or accepted if the keys came first
	if _, err := v.Verify(t.Context(), text); err != nil {
		t.Error(err)
	}
}

// TestConcurrentTokens verifies that tokens that arrive together cause one request for keys.
func TestConcurrentTokens(t *testing.T) {
	t.Parallel()
	i := oidctest.New(t)
	v := open(t, oidc.Options{Issuers: []oidc.Issuer{trusted(t, i)}, Rules: []oidc.Rule{rule(i.URL)}})
	text := i.Token(t, i.GitHub(audience))
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if _, err := v.Verify(t.Context(), text); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if got := i.KeyRequests(); got != 1 {
		t.Errorf("%d requests for keys, want 1", got)
	}
}

// TestPlaceOfKeys verifies that keys are read from the issuer's own host, and from no private address, unless the
// configuration says otherwise.
func TestPlaceOfKeys(t *testing.T) {
	t.Parallel()
	other := oidctest.New(t)
	for name, tt := range map[string]struct {
		issuer   func(*oidc.Issuer)
		change   func(*oidctest.Issuer)
		lookup   string // address of every host
		accepted bool
	}{
		"own host":        {accepted: true},
		"loopback":        {issuer: func(s *oidc.Issuer) { s.AllowPrivate = nil }},
		"unknown CA":      {issuer: func(s *oidc.Issuer) { s.CAFile = "" }},
		"private address": {issuer: func(s *oidc.Issuer) { s.URL = "https://issuer.example" }, lookup: "10.0.0.1"},
		"keys on another host": {
			change: func(i *oidctest.Issuer) { i.SetDiscovery("jwks_uri", other.URL+"/jwks") },
		},
		"keys at a metadata service": {
			change: func(i *oidctest.Issuer) { i.SetDiscovery("jwks_uri", "http://169.254.169.254/latest/meta-data") },
		},
		"keys without TLS": {
			change: func(i *oidctest.Issuer) {
				i.SetDiscovery("jwks_uri", "http://"+strings.TrimPrefix(i.URL, "https://")+"/jwks")
			},
		},
		"keys with a user name": {
			change: func(i *oidctest.Issuer) {
				i.SetDiscovery("jwks_uri", "https://user@"+strings.TrimPrefix(i.URL, "https://")+"/jwks")
			},
		},
		"no keys": {change: func(i *oidctest.Issuer) { i.SetDiscovery("jwks_uri", "") }},
		"document of another issuer": {
			change: func(i *oidctest.Issuer) { i.SetDiscovery("issuer", other.URL) },
		},
		"long document": {
			change: func(i *oidctest.Issuer) { i.SetDiscovery("padding", strings.Repeat("x", 1<<20)) },
		},
		"redirect": {
			change: func(i *oidctest.Issuer) { i.SetRedirect(other.URL + "/.well-known/openid-configuration") },
		},
		"configured URL of the keys": {
			issuer:   func(s *oidc.Issuer) { s.JWKSURI = s.URL + "/jwks" },
			change:   func(i *oidctest.Issuer) { i.SetDiscovery("jwks_uri", "https://nowhere.example") },
			accepted: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i := oidctest.New(t)
			settings := trusted(t, i)
			if tt.issuer != nil {
				tt.issuer(&settings)
			}
			if tt.change != nil {
				tt.change(i)
			}
			o := oidc.Options{Issuers: []oidc.Issuer{settings}, Rules: []oidc.Rule{rule(settings.URL)}}
			if tt.lookup != "" {
				o.Lookup = func(context.Context, string) ([]netip.Addr, error) {
					return []netip.Addr{netip.MustParseAddr(tt.lookup)}, nil
				}
			}
			text := i.Token(t, i.GitHub(audience).With(oidctest.Claims{"iss": settings.URL}))
			_, err := open(t, o).Verify(t.Context(), text)
			if tt.accepted && err != nil || !tt.accepted && !fault.Is(err, fault.Unavailable) {
				t.Errorf("Verify: %v, want accepted = %t", err, tt.accepted)
			}
		})
	}
}

// TestKeysInFile verifies that keys in a file need no request, and that a missing file is an error at start.
func TestKeysInFile(t *testing.T) {
	t.Parallel()
	i := oidctest.New(t)
	path := filepath.Join(t.TempDir(), "jwks.json")
	settings := oidc.Issuer{URL: i.URL, JWKSFile: path}
	o := oidc.Options{Issuers: []oidc.Issuer{settings}, Rules: []oidc.Rule{rule(i.URL)}}
	if _, err := oidc.New(o); err == nil || !strings.Contains(err.Error(), "jwks_file") {
		t.Errorf("New with a missing file: %v", err)
	}
	writeKeys(t, path, oidctest.Public(oidctest.KeyID, i.Key))
	v := open(t, o)
	if _, err := v.Verify(t.Context(), i.Token(t, i.GitHub(audience))); err != nil {
		t.Error(err)
	}
	if got := i.KeyRequests(); got != 0 {
		t.Errorf("%d requests for keys, want none", got)
	}
}

// TestUnsuitableKeys verifies that keys that must not verify tokens are not used.
func TestUnsuitableKeys(t *testing.T) {
	t.Parallel()
	i := oidctest.New(t)
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	encryption := oidctest.Public(oidctest.KeyID, i.Key)
	encryption.Use = "enc"
	for name, tt := range map[string]struct {
		published jose.JSONWebKey
		signer    jose.SigningKey
	}{
		"short key":          {published: oidctest.Public(oidctest.KeyID, short), signer: rs256(short)},
		"key for encryption": {published: encryption, signer: rs256(i.Key)},
		"symmetric key": {
			published: jose.JSONWebKey{Key: make([]byte, 64), KeyID: oidctest.KeyID},
			signer:    jose.SigningKey{Algorithm: jose.HS256, Key: make([]byte, 64)},
		},
		"private key": {published: jose.JSONWebKey{Key: i.Key, KeyID: oidctest.KeyID}, signer: rs256(i.Key)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "jwks.json")
			writeKeys(t, path, tt.published, oidctest.Public("another", oidctest.NewKey(t)))
			v := open(t, oidc.Options{
				Issuers: []oidc.Issuer{{URL: i.URL, JWKSFile: path}}, Rules: []oidc.Rule{rule(i.URL)},
			})
			wantRefused(t, v, oidctest.Sign(t, tt.signer, oidctest.KeyID, i.GitHub(audience)), "")
		})
	}
}

func writeKeys(t *testing.T, path string, keys ...jose.JSONWebKey) {
	t.Helper()
	text, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}
