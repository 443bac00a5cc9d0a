package oidc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/countersign/countersign/internal/registryclient"
)

const (
	discoveryPath = "/.well-known/openid-configuration"
	maxDocument   = 512 << 10 // bytes of a discovery document, of a set of keys, or of their headers
)

// source reads the keys of an issuer.
type source func(context.Context) ([]jose.JSONWebKey, error)

// newSource checks the settings of an issuer and returns the source of its keys. A file with keys is read once, so that
// a wrong path is an error at start.
func newSource(i Issuer, o Options) (source, error) {
	base, err := issuerURL(i.URL, i.AllowPrivate)
	if err != nil {
		return nil, err
	}
	if i.JWKSFile != "" {
		if i.JWKSURI != "" {
			return nil, errors.New("set either jwks_uri or jwks_file")
		}
		read := func(context.Context) ([]jose.JSONWebKey, error) { return readKeys(i.JWKSFile) }
		_, err := readKeys(i.JWKSFile)
		return read, err
	}
	client, err := httpClient(i, o)
	if err != nil {
		return nil, err
	}
	if i.JWKSURI == "" {
		return discovery{base: base, issuer: i.URL, client: client}.keys, nil
	}
	if _, err := issuerURL(i.JWKSURI, i.AllowPrivate); err != nil {
		return nil, fmt.Errorf("jwks_uri: %w", err)
	}
	return func(ctx context.Context) ([]jose.JSONWebKey, error) {
		raw, err := get(ctx, client, i.JWKSURI)
		if err != nil {
			return nil, err
		}
		return parseKeys(raw)
	}, nil
}

// issuerURL parses the URL of an issuer or of its keys.
func issuerURL(text string, private []netip.Prefix) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return nil, fmt.Errorf("want https://host[:port][/path], got %q", text)
	}
	if u.Scheme == "https" {
		return u, nil
	}
	a, err := netip.ParseAddr(u.Hostname())
	allowed := err == nil && a.IsLoopback() && slices.ContainsFunc(private, func(p netip.Prefix) bool { return p.Contains(a) })
	if u.Scheme != "http" || !allowed {
		return nil, fmt.Errorf("want https://host[:port][/path], got %q; http is for tests on a loopback address "+
			"in allow_private_addresses", text)
	}
	return u, nil
}

func readKeys(path string) ([]jose.JSONWebKey, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("jwks_file: %w", err)
	}
	defer func() { _ = f.Close() }()
	raw, err := readAll(f)
	if err != nil {
		return nil, fmt.Errorf("jwks_file %s: %w", path, err)
	}
	keys, err := parseKeys(raw)
	if err != nil {
		return nil, fmt.Errorf("jwks_file %s: %w", path, err)
	}
	return keys, nil
}

// httpClient returns a client that connects to public addresses and those that the issuer may have. It follows no
// redirects and uses no proxy.
func httpClient(i Issuer, o Options) (*http.Client, error) {
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if i.CAFile != "" {
		pem, err := os.ReadFile(i.CAFile)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file: no PEM certificate in %s", i.CAFile)
		}
	}
	guard := registryclient.Guard{Allow: i.AllowPrivate, Lookup: o.Lookup, Refused: refusedAddress}
	return &http.Client{
		Transport: &http.Transport{
			DialContext: guard.Dialer(readTimeout), TLSHandshakeTimeout: readTimeout,
			TLSClientConfig:   &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			DisableKeepAlives: true, MaxResponseHeaderBytes: maxDocument, IdleConnTimeout: time.Minute,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("issuers may not redirect") },
	}, nil
}

func refusedAddress(a netip.Addr, host string) error {
	return fmt.Errorf("the address %s of %s is private or loopback: allow it with allow_private_addresses of the issuer "+
		"in oidc.issuers", a, host)
}

// discovery reads the keys that the discovery document of an issuer names (OpenID Connect Discovery 1.0, 4).
type discovery struct {
	base   *url.URL
	issuer string
	client *http.Client
}

func (d discovery) keys(ctx context.Context) ([]jose.JSONWebKey, error) {
	raw, err := get(ctx, d.client, strings.TrimSuffix(d.issuer, "/")+discoveryPath)
	if err != nil {
		return nil, err
	}
	where, err := d.keysURL(raw)
	if err != nil {
		return nil, err
	}
	if raw, err = get(ctx, d.client, where); err != nil {
		return nil, err
	}
	return parseKeys(raw)
}

// keysURL returns the URL of the keys in a discovery document. It must be on the issuer's own host.
func (d discovery) keysURL(raw []byte) (string, error) {
	var document struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(raw, &document); err != nil {
		return "", fmt.Errorf("discovery document: %w", err)
	}
	if document.Issuer != d.issuer {
		return "", fmt.Errorf("the discovery document is of the issuer %.200q", document.Issuer)
	}
	u, err := url.Parse(document.JWKSURI)
	if err != nil || u.Scheme != d.base.Scheme || u.Host != d.base.Host || u.User != nil {
		return "", fmt.Errorf("the discovery document places the keys on another host, %.200q: "+
			"set jwks_uri of the issuer if that is correct", document.JWKSURI)
	}
	return u.String(), nil
}

// get returns the body of a response with the status 200.
func get(ctx context.Context, c *http.Client, from string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", "application/json")
	res, err := c.Do(r)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: %s", from, res.Status)
	}
	body, err := readAll(res.Body)
	if err != nil {
		return nil, fmt.Errorf("GET %s: %w", from, err)
	}
	return body, nil
}

func readAll(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxDocument+1))
	if err == nil && len(b) > maxDocument {
		return nil, fmt.Errorf("longer than %d bytes", maxDocument)
	}
	return b, err
}
