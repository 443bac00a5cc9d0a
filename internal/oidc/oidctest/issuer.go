// Package oidctest runs an issuer of id tokens inside a test.
package oidctest

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"
)

// KeyID is the id of the first key of an Issuer.
const KeyID = "key-1"

// Loopback are the addresses of an Issuer.
var Loopback = netip.MustParsePrefix("127.0.0.0/8")

// keyBits is the size of the keys.
const keyBits = 2048

// Issuer is an issuer of id tokens with TLS on a loopback address. It is safe for concurrent use.
type Issuer struct {
	// URL is the claim iss of its tokens.
	URL string
	// Key signs its tokens.
	Key *rsa.PrivateKey

	server *httptest.Server

	mu        sync.Mutex
	keys      []jose.JSONWebKey
	discovery map[string]any
	redirect  string
	failing   bool
	requests  int
	client    client
}

// New starts an issuer until the end of the test.
func New(tb testing.TB) *Issuer {
	tb.Helper()
	i := &Issuer{Key: NewKey(tb)}
	i.SetKeys(Public(KeyID, i.Key))
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", i.serveDiscovery)
	mux.HandleFunc("GET /jwks", i.serveKeys)
	mux.HandleFunc("GET /authorize", i.serveAuthorize)
	mux.HandleFunc("POST /device", i.serveDevice)
	mux.HandleFunc("POST /token", i.serveToken(tb))
	i.server = httptest.NewUnstartedServer(mux)
	i.server.Config.ErrorLog = log.New(io.Discard, "", 0) // clients that do not trust the certificate
	i.server.StartTLS()
	tb.Cleanup(i.server.Close)
	i.URL = i.server.URL
	i.client = client{grants: map[string]grant{}, devices: map[string]device{}}
	i.discovery = map[string]any{
		"issuer": i.URL, "jwks_uri": i.URL + "/jwks", "authorization_endpoint": i.URL + "/authorize",
		"token_endpoint": i.URL + "/token", "device_authorization_endpoint": i.URL + "/device",
		"id_token_signing_alg_values_supported": []string{"RS256"},
	}
	return i
}

// NewKey generates a key for signatures.
func NewKey(tb testing.TB) *rsa.PrivateKey {
	tb.Helper()
	key, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

// Public returns the public part of a key as issuers publish it.
func Public(id string, key *rsa.PrivateKey) jose.JSONWebKey {
	return jose.JSONWebKey{Key: &key.PublicKey, KeyID: id, Algorithm: string(jose.RS256), Use: "sig"}
}

func (i *Issuer) serveDiscovery(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case i.failing:
		w.WriteHeader(http.StatusInternalServerError)
	case i.redirect != "":
		http.Redirect(w, r, i.redirect, http.StatusFound)
	default:
		_ = json.NewEncoder(w).Encode(i.discovery)
	}
}

func (i *Issuer) serveKeys(w http.ResponseWriter, _ *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.requests++
	if i.failing {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: i.keys})
}

// SetKeys replaces the published keys.
func (i *Issuer) SetKeys(keys ...jose.JSONWebKey) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = keys
}

// SetDiscovery replaces a member of the discovery document.
func (i *Issuer) SetDiscovery(name string, value any) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.discovery[name] = value
}

// SetRedirect redirects requests for the discovery document.
func (i *Issuer) SetRedirect(location string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.redirect = location
}

// SetFailing makes all requests fail, or work again.
func (i *Issuer) SetFailing(failing bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.failing = failing
}

// KeyRequests returns the number of requests for the keys.
func (i *Issuer) KeyRequests() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.requests
}

// CAFile writes the certificate that clients must trust to a file and returns its path.
func (i *Issuer) CAFile(tb testing.TB) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "issuer.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.server.Certificate().Raw})
	if err := os.WriteFile(path, text, 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

// Claims are the claims of a token.
type Claims map[string]any

// With returns the claims with other values. A nil value removes a claim.
func (c Claims) With(changes Claims) Claims {
	changed := maps.Clone(c)
	for name, value := range changes {
		if value == nil {
			delete(changed, name)
		} else {
			changed[name] = value
		}
	}
	return changed
}

// Validity of the tokens.
const (
	lifetime = 5 * time.Minute
	backdate = 5 * time.Minute // of nbf
)

// GitHub returns the claims of a token as GitHub issues it for a push to the branch main of acme/app.
func (i *Issuer) GitHub(audience string) Claims {
	now := time.Now()
	return Claims{
		"iss": i.URL, "aud": audience, "sub": "repo:acme@11/app@22:ref:refs/heads/main", "jti": uuid.NewString(),
		"iat": now.Unix(), "nbf": now.Add(-backdate).Unix(), "exp": now.Add(lifetime).Unix(),
		"repository": "acme/app", "repository_id": "22", "repository_owner": "acme", "repository_owner_id": "11",
		"ref": "refs/heads/main", "ref_protected": "true", "event_name": "push", "runner_environment": "github-hosted",
		"job_workflow_ref": "acme/app/.github/workflows/release.yml@refs/heads/main",
	}
}

// Fork returns the changes of the claims of a job in a fork of acme/app.
func Fork() Claims {
	return Claims{
		"sub": "repo:evil@99/app@66:ref:refs/heads/main", "repository": "evil/app", "repository_id": "66",
		"repository_owner": "evil", "repository_owner_id": "99",
		"job_workflow_ref": "evil/app/.github/workflows/release.yml@refs/heads/main",
	}
}

// Token signs claims with the key of the issuer.
func (i *Issuer) Token(tb testing.TB, c Claims) string {
	tb.Helper()
	return Sign(tb, jose.SigningKey{Algorithm: jose.RS256, Key: i.Key}, KeyID, c)
}

// Sign signs claims with any key. An empty id leaves out the header kid.
func Sign(tb testing.TB, key jose.SigningKey, id string, c Claims) string {
	tb.Helper()
	options := (&jose.SignerOptions{}).WithType("JWT")
	if id != "" {
		options = options.WithHeader("kid", id)
	}
	s, err := jose.NewSigner(key, options)
	if err != nil {
		tb.Fatal(err)
	}
	text, err := jwt.Signed(s).Claims(map[string]any(c)).Serialize()
	if err != nil {
		tb.Fatal(err)
	}
	return text
}
