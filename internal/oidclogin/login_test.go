package oidclogin_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/oidc"
	"github.com/countersign/countersign/internal/oidc/oidctest"
	"github.com/countersign/countersign/internal/oidclogin"
)

// registry is a server that accepts logins.
type registry struct {
	*httptest.Server
	issuer *oidctest.Issuer
	roots  *x509.CertPool

	mu         sync.Mutex
	login      *oidc.Login
	origin     string // that it announces
	deviceFlow bool
	redirect   string
}

const challenge = "challenge of the server"

func newRegistry(t *testing.T) *registry {
	t.Helper()
	g := &registry{issuer: oidctest.New(t), roots: x509.NewCertPool(), deviceFlow: true}
	g.Server = httptest.NewTLSServer(g)
	t.Cleanup(g.Close)
	g.roots.AddCert(g.Certificate())
	text, err := os.ReadFile(g.issuer.CAFile(t))
	if err != nil {
		t.Fatal(err)
	}
	g.roots.AppendCertsFromPEM(text)
	g.origin = g.URL
	g.use(t, false)
	return g
}

// use sets the rules of logins.
func (g *registry) use(t *testing.T, withoutNonce bool) {
	t.Helper()
	l, err := oidc.NewLogin(oidc.LoginOptions{
		Issuer: oidc.Issuer{
			URL: g.issuer.URL, CAFile: g.issuer.CAFile(t), AllowPrivate: []netip.Prefix{oidctest.Loopback},
		},
		ClientID: oidctest.ClientID, Origin: g.URL, NameClaim: "preferred_username", WithoutNonce: withoutNonce,
	})
	if err != nil {
		t.Fatal(err)
	}
	g.login = l
}

// ServeHTTP is the endpoint for logins.
func (g *registry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case r.URL.Path != "/pulp/api/v3/oidc/login/" || g.login == nil:
		w.WriteHeader(http.StatusNotFound)
	case g.redirect != "":
		http.Redirect(w, r, g.redirect, http.StatusTemporaryRedirect)
	case r.Method == http.MethodGet:
		_ = json.NewEncoder(w).Encode(map[string]any{
			"issuer": g.issuer.URL, "client_id": oidctest.ClientID, "scopes": []string{"openid", "profile"},
			"device_flow": g.deviceFlow, "challenge": challenge, "origin": g.origin,
		})
	default:
		var body struct {
			IDToken   string `json:"id_token"`
			Challenge string `json:"challenge"`
		}
		_ = json.NewDecoder(r.Body).Decode(&body)
		p, err := g.login.Verify(r.Context(), body.IDToken, body.Challenge)
		if err != nil {
			w.WriteHeader(http.StatusUnauthorized)
			_ = json.NewEncoder(w).Encode(map[string]any{"detail": err.Error()})
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"username": p.Name, "token": "cst_x", "expires": time.Now().Add(time.Hour)})
	}
}

// options returns the options of a login by a browser that follows redirects.
func (g *registry) options() (oidclogin.Options, *strings.Builder) {
	var out strings.Builder
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: g.roots, MinVersion: tls.VersionTLS12}}}
	return oidclogin.Options{
		Registry: g.URL, HTTP: client, Out: &out,
		Browser: func(ctx context.Context, url string) error { _, err := get(ctx, client, url); return err },
	}, &out
}

func get(ctx context.Context, c *http.Client, url string) (status int, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	res, err := c.Do(r)
	if err != nil {
		return 0, err
	}
	_, _ = io.Copy(io.Discard, res.Body)
	return res.StatusCode, res.Body.Close()
}

// TestCodeFlow logs in with a browser on the same computer.
func TestCodeFlow(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	g.issuer.SetPerson(oidctest.Claims{"preferred_username": "alice"})
	o, out := g.options()
	got, err := oidclogin.Run(t.Context(), o)
	if err != nil || got.Username != "alice" || got.Token != "cst_x" || time.Until(got.Expires) < time.Minute {
		t.Errorf("Run = %+v, %v", got, err)
	}
	if !strings.Contains(out.String(), g.issuer.URL+"/authorize?") || strings.Contains(out.String(), "cst_x") {
		t.Errorf("output: %s", out)
	}
}

// TestDeviceFlow logs in with a browser on another computer.
func TestDeviceFlow(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	g.issuer.SetPerson(oidctest.Claims{"preferred_username": "alice"})
	o, out := g.options()
	o.Device = true
	got, err := oidclogin.Run(t.Context(), o)
	if err != nil || got.Username != "alice" {
		t.Errorf("Run = %+v, %v", got, err)
	}
	if !strings.Contains(out.String(), "ABCD-EFGH") {
		t.Errorf("output: %s", out)
	}
	g.issuer.IgnoreNonce()
	if _, err := oidclogin.Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "no nonce") {
		t.Errorf("an issuer without nonces: %v", err)
	}
	g.use(t, true)
	if _, err := oidclogin.Run(t.Context(), o); err != nil {
		t.Errorf("an issuer without nonces, allowed: %v", err)
	}
}

// TestRefusedLogins verifies the errors for a person.
func TestRefusedLogins(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(*registry, *oidclogin.Options)
		want   string
	}{
		"person refuses":         {func(g *registry, _ *oidclogin.Options) { g.issuer.SetPerson(nil) }, `the issuer refused the login: "access_denied"`},
		"person refuses, device": {func(g *registry, o *oidclogin.Options) { g.issuer.SetPerson(nil); o.Device = true }, "the issuer refused the login: access_denied"},
		"server without logins":  {func(g *registry, _ *oidclogin.Options) { g.login = nil }, "has no login with OpenID Connect"},
		"no device flow":         {func(g *registry, o *oidclogin.Options) { g.deviceFlow = false; o.Device = true }, "oidc.login.device_flow"},
		"no device endpoint": {func(g *registry, o *oidclogin.Options) {
			g.issuer.SetDiscovery("device_authorization_endpoint", "")
			o.Device = true
		}, "the issuer has no device flow"},
		"another name of the server": {
			func(g *registry, o *oidclogin.Options) { g.origin = "https://registry.example.com" }, "has the address https://registry.example.com",
		},
		"server redirects":   {func(g *registry, _ *oidclogin.Options) { g.redirect = g.issuer.URL + "/x" }, "redirects to"},
		"server without TLS": {func(_ *registry, o *oidclogin.Options) { o.Registry = "http://registry.example.com" }, "want https"},
		"URL with a path":    {func(_ *registry, o *oidclogin.Options) { o.Registry += "/team" }, "want the URL of a server"},
		"listen elsewhere":   {func(_ *registry, o *oidclogin.Options) { o.Listen = "0.0.0.0:8250" }, "want a loopback address"},
		"refused by the server": {
			func(g *registry, _ *oidclogin.Options) { g.issuer.SetPerson(oidctest.Claims{"preferred_username": ""}) },
			"refused the login: The id token is not accepted",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newRegistry(t)
			g.issuer.SetPerson(oidctest.Claims{"preferred_username": "alice"})
			o, _ := g.options()
			tt.change(g, &o)
			if got, err := oidclogin.Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Run = %+v, %v, want an error with %q", got, err, tt.want)
			}
		})
	}
}

// TestRelayedLogin verifies that a server cannot use a login at another one: the nonce contains the URL that the person
// called.
func TestRelayedLogin(t *testing.T) {
	t.Parallel()
	good, evil := newRegistry(t), newRegistry(t)
	good.issuer.SetPerson(oidctest.Claims{"preferred_username": "alice"})
	evil.issuer = good.issuer // it passes the issuer, the client and the challenge of the good server on
	for _, g := range []*registry{good, evil} {
		text, err := os.ReadFile(good.issuer.CAFile(t))
		if err != nil {
			t.Fatal(err)
		}
		g.roots.AppendCertsFromPEM(text)
	}
	evil.login = good.login // and the id token to it
	o, _ := evil.options()
	if got, err := oidclogin.Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "the nonce of the token is not that of this login") {
		t.Errorf("Run = %+v, %v, want a refusal", got, err)
	}
}

// TestForeignRedirects verifies that pages in the browser cannot end a login with a code of their own.
func TestForeignRedirects(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	g.issuer.SetPerson(oidctest.Claims{"preferred_username": "alice"})
	o, _ := g.options()
	redirect := regexp.MustCompile(`redirect_uri=http%3A%2F%2F([^%]*)%3A([0-9]+)%2Fcallback`)
	browser := o.Browser
	o.Browser = func(ctx context.Context, url string) error {
		m := redirect.FindStringSubmatch(url)
		if m == nil {
			return errors.New("no redirect_uri in " + url)
		}
		at := "http://" + m[1] + ":" + m[2]
		for _, query := range []string{"/callback?code=x", "/callback?code=x&state=", "/callback?code=x&state=y", "/?code=x"} {
			if status, err := get(ctx, http.DefaultClient, at+query); err != nil || status < 400 {
				t.Errorf("%s: %d, %v", query, status, err)
			}
		}
		return browser(ctx, url)
	}
	if got, err := oidclogin.Run(t.Context(), o); err != nil || got.Username != "alice" {
		t.Errorf("Run = %+v, %v", got, err)
	}
}

// TestNoBrowser verifies that the person can open the address that the command prints.
func TestNoBrowser(t *testing.T) {
	t.Parallel()
	g := newRegistry(t)
	g.issuer.SetPerson(oidctest.Claims{"preferred_username": "alice"})
	o, out := g.options()
	o.Browser = func(ctx context.Context, url string) error {
		_, err := get(ctx, o.HTTP, url)
		return errors.Join(err, errors.New("xdg-open is not installed"))
	}
	if _, err := oidclogin.Run(t.Context(), o); err != nil || !strings.Contains(out.String(), "open the address yourself") {
		t.Errorf("Run: %v\n%s", err, out)
	}
}
