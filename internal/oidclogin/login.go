// Package oidclogin logs a person in to a server with OpenID Connect, for the command line. It is a public client: a
// program on the person's own computer, without a secret.
//
// The server names the issuer. The person logs in there with a browser, either on the same computer (authorization code
// with PKCE, and a redirect to a loopback address, RFC 8252) or on another one (device flow, RFC 8628). The server gets
// the id token and returns an API token.
package oidclogin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	goidc "github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/countersign/countersign/internal/oidc"
)

// loginPath is the path of the endpoint for logins on a server.
const loginPath = "/pulp/api/v3/oidc/login/"

// maxResponse is the maximum size of a response of the server in bytes.
const maxResponse = 64 << 10

// Options configure a login. Registry, HTTP and Out are required.
type Options struct {
	// Registry is the URL of the server: https://HOST[:PORT].
	Registry string
	// Device selects the device flow, for a computer without a browser.
	Device bool
	// Listen is the address for the redirect of the browser, HOST:PORT on a loopback address. Empty: 127.0.0.1 and a
	// free port.
	Listen string
	// Browser opens a URL in a browser; nil: the person does.
	Browser func(ctx context.Context, url string) error
	// HTTP sends the requests to the server and to the issuer.
	HTTP *http.Client
	// Out receives the instructions for the person.
	Out io.Writer
}

// Result is a successful login.
type Result struct {
	Username string    `json:"username"`
	Token    string    `json:"token"` // an API token
	Expires  time.Time `json:"expires"`
}

// offer is the server's description of logins.
type offer struct {
	Issuer     string   `json:"issuer"`
	ClientID   string   `json:"client_id"`
	Scopes     []string `json:"scopes"`
	DeviceFlow bool     `json:"device_flow"`
	Challenge  string   `json:"challenge"`
	Origin     string   `json:"origin"`
}

// Run logs a person in. Its error is one sentence for the person.
func Run(ctx context.Context, o Options) (Result, error) {
	origin, err := parseOrigin(o.Registry)
	if err != nil {
		return Result{}, err
	}
	client := *o.HTTP
	client.CheckRedirect = sameHost
	s := server{origin: origin, http: &client}
	offered, err := s.offer(ctx)
	if err != nil {
		return Result{}, err
	}
	if offered.Origin != origin {
		return Result{}, fmt.Errorf("the server at %s has the address %s: log in there", origin, offered.Origin)
	}
	if o.Device && !offered.DeviceFlow {
		return Result{}, fmt.Errorf("the server at %s does not allow the device flow; an administrator allows it with "+
			"oidc.login.device_flow", origin)
	}
	ctx = goidc.ClientContext(ctx, &client)
	provider, err := goidc.NewProvider(ctx, offered.Issuer)
	if err != nil {
		return Result{}, fmt.Errorf("read the configuration of the issuer %s: %w", offered.Issuer, err)
	}
	f := flow{
		options: o, nonce: oidc.Nonce(offered.Challenge, origin),
		oauth: oauth2.Config{ClientID: offered.ClientID, Endpoint: provider.Endpoint(), Scopes: offered.Scopes},
	}
	run := f.code
	if o.Device {
		run = f.device
	}
	token, err := run(ctx)
	if err != nil {
		return Result{}, describe(err)
	}
	id, _ := token.Extra("id_token").(string)
	if id == "" {
		return Result{}, fmt.Errorf("the issuer %s returned no id token; oidc.login.scopes must contain openid", offered.Issuer)
	}
	return s.login(ctx, id, offered.Challenge)
}

// sameHost refuses redirects to another host, which would get codes and tokens.
func sameHost(r *http.Request, via []*http.Request) error {
	if first := via[0].URL; r.URL.Scheme != first.Scheme || r.URL.Host != first.Host || len(via) > 5 {
		return fmt.Errorf("%s redirects to %s", first.Host, r.URL.Host)
	}
	return nil
}

// parseOrigin returns the normal form of the URL of a server, scheme://host[:port]. http is for servers on the same
// computer.
func parseOrigin(text string) (string, error) {
	if !strings.Contains(text, "://") {
		text = "https://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || strings.Trim(u.Path, "/") != "" {
		return "", fmt.Errorf("want the URL of a server, https://HOST[:PORT], got %q", text)
	}
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	local := host == "localhost" || host == "127.0.0.1" || host == "::1"
	if u.Scheme != "https" && (u.Scheme != "http" || !local) {
		return "", fmt.Errorf("want https for %s: the token would be readable on the network", host)
	}
	port := u.Port()
	if u.Scheme == "https" && port == "443" || u.Scheme == "http" && port == "80" {
		port = ""
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if port != "" {
		host += ":" + port
	}
	return u.Scheme + "://" + host, nil
}

// server is the server that the person logs in to.
type server struct {
	origin string
	http   *http.Client
}

// offer asks the server how to log in.
func (s server) offer(ctx context.Context) (o offer, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.origin+loginPath, nil)
	if err != nil {
		return o, err
	}
	err = s.send(r, &o)
	return o, err
}

// login exchanges an id token for an API token.
func (s server) login(ctx context.Context, idToken, challenge string) (result Result, err error) {
	body, err := json.Marshal(map[string]string{"id_token": idToken, "challenge": challenge})
	if err != nil {
		return result, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.origin+loginPath, bytes.NewReader(body))
	if err != nil {
		return result, err
	}
	r.Header.Set("Content-Type", "application/json")
	err = s.send(r, &result)
	return result, err
}

// send sends a request and decodes the response. The error contains the reason of the server.
func (s server) send(r *http.Request, into any) error {
	response, err := s.http.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxResponse))
	if err != nil {
		return err
	}
	switch {
	case response.StatusCode == http.StatusNotFound:
		return fmt.Errorf("the server at %s has no login with OpenID Connect (oidc.login)", s.origin)
	case response.StatusCode != http.StatusOK:
		var refusal struct {
			Detail string `json:"detail"`
		}
		if json.Unmarshal(body, &refusal) != nil || refusal.Detail == "" {
			refusal.Detail = response.Status
		}
		return fmt.Errorf("the server at %s refused the login: %s", s.origin, refusal.Detail)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("the response of %s: %w", s.origin, err)
	}
	return nil
}

// describe shortens the errors of the issuer.
func describe(err error) error {
	if refused, ok := errors.AsType[*oauth2.RetrieveError](err); ok && refused.ErrorCode != "" {
		return fmt.Errorf("the issuer refused the login: %s", strings.TrimSpace(refused.ErrorCode+" "+refused.ErrorDescription))
	}
	return err
}
