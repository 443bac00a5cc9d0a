package mirror

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/publicsuffix"
	"golang.org/x/time/rate"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/registryclient"
)

// What holds where a remote does not say.
const (
	defaultRetries = 3
	defaultConnect = 30 * time.Second
	defaultIdle    = 60 * time.Second // without a byte
	maxRetries     = 10               // whatever a remote says
	maxHeader      = 64 << 10
	idleConns      = 100
)

// Registry is one repository of a remote registry. It is safe for concurrent use.
type Registry struct {
	network  *Network
	remote   pulp.Remote
	base     *url.URL // without a closing slash
	name     string
	sigstore *url.URL
	proxy    *url.URL
	client   *http.Client
	auth     *registryclient.Authority
	guests   guests // hosts that the remote redirects to
	rate     *rate.Limiter
	close    func()

	// Skipped is called for each item of the remote that a method leaves out, with its name, by several goroutines; nil: nobody is told.
	Skipped func(kind Skipped, name string)
}

// Skipped is a kind of content that a Registry leaves out.
type Skipped int

// The kinds of content that a Registry leaves out.
const (
	SkippedTag       Skipped = iota // a tag whose name is not well-formed
	SkippedSignature                // a signature in an unknown form; the name is its manifest's digest
)

func (g *Registry) skip(kind Skipped, name string) {
	if g.Skipped != nil {
		g.Skipped(kind, name)
	}
}

// Location returns the URL of the registry, without a closing slash, and the name of the repository there, both as they are asked for.
func (g *Registry) Location() (registry, name string) { return g.base.String(), g.name }

// Descriptor is what a remote says of a manifest.
type Descriptor struct {
	MediaType string
	Digest    digest.Digest // empty when it does not say
	Size      int64
}

// Manifest is a manifest's exact bytes. Digest is theirs.
type Manifest struct {
	MediaType string
	Digest    digest.Digest
	Payload   []byte
}

// hubHosts are the names under which people know Docker Hub; its API is at the last.
var hubHosts = []string{"docker.io", "index.docker.io", "hub.docker.com", "registry-1.docker.io"}

// Open returns the repository that a remote names. It does not reach for it. Invalid, in a sentence, when the remote's settings cannot be used.
func (n *Network) Open(r pulp.Remote) (*Registry, error) {
	base, err := parseURL(r.URL)
	if err != nil {
		return nil, fault.New(fault.Invalid, "The remote's url is not http(s)://host[:port] without a user.")
	}
	g := &Registry{network: n, remote: r, base: base, name: strings.Trim(r.UpstreamName, "/")}
	if slices.Contains(hubHosts, base.Hostname()) {
		base.Host = hubHosts[len(hubHosts)-1]
		if !strings.Contains(g.name, "/") {
			g.name = "library/" + g.name
		}
	}
	if !pulp.ValidName(g.name) {
		return nil, fault.New(fault.Invalid, "The remote's upstream_name %q is not the name of a repository.", r.UpstreamName)
	}
	if r.Sigstore != nil {
		if g.sigstore, err = parseURL(*r.Sigstore); err != nil {
			return nil, fault.New(fault.Invalid, "The remote's sigstore is not an http or https URL.")
		}
	}
	if err := g.connect(); err != nil {
		return nil, err
	}
	g.guests.client = g.client
	g.auth = registryclient.New(base, g.client, text(r.Secrets.Username), text(r.Secrets.Password), g.trusts)
	if n := r.Connection.RateLimit; n != nil && *n > 0 {
		g.rate = rate.NewLimiter(rate.Limit(*n), 1)
	}
	return g, nil
}

// trusts reports whether a token service elsewhere than at the remote's own host may be told the password: one of the remote's domain, or one that the remote names. It
// must speak https, unless the remote itself does not.
func (g *Registry) trusts(realm *url.URL) bool {
	named := registryclient.OneOf(realm, g.remote.Connection.TokenHosts) && (realm.Scheme == "https" || g.base.Scheme == "http")
	return named || sameDomain(realm, g.base)
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

var defaultPorts = map[string]string{"http": "80", "https": "443"}

// parseURL reads an http or https URL without a user, and takes off its closing slash.
func parseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil {
		return nil, fault.New(fault.Invalid, "Enter a valid URL.")
	}
	u.Path, u.RawPath, u.RawQuery, u.Fragment = strings.TrimRight(u.Path, "/"), "", "", ""
	u.Host = strings.ToLower(u.Host) // hosts are compared as texts
	if port := u.Port(); port == defaultPorts[u.Scheme] {
		u.Host = strings.TrimSuffix(u.Host, ":"+port)
	}
	return u, nil
}

// sameDomain says whether a token service belongs to the remote, as far as names tell: both speak https and share the domain that somebody has registered.
func sameDomain(a, b *url.URL) bool {
	if a.Scheme != "https" || b.Scheme != "https" {
		return false
	}
	for _, u := range []*url.URL{a, b} {
		if _, isAddress := literal(u.Hostname()); isAddress {
			return false
		}
	}
	mine, err := publicsuffix.EffectiveTLDPlusOne(a.Hostname())
	if err != nil {
		return false
	}
	other, err := publicsuffix.EffectiveTLDPlusOne(b.Hostname())
	return err == nil && mine == other
}

// connect makes the client: one transport for the remote's own host, with its client certificate, and one for others.
func (g *Registry) connect() error {
	c := g.remote.Connection
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if c.CACert != nil && !roots.AppendCertsFromPEM([]byte(*c.CACert)) {
		return fault.New(fault.Invalid, "The remote's ca_cert holds no certificate.")
	}
	if c.ProxyURL != nil {
		if g.proxy, err = parseURL(*c.ProxyURL); err != nil {
			return fault.New(fault.Invalid, "The remote's proxy_url is not http(s)://host[:port]; its user goes into proxy_username.")
		}
		if user := text(g.remote.Secrets.ProxyUsername); user != "" {
			g.proxy.User = url.UserPassword(user, text(g.remote.Secrets.ProxyPassword))
		}
	}
	connect := seconds(c.ConnectTimeout, defaultConnect)
	if c.SockConnectTimeout != nil {
		connect = seconds(c.SockConnectTimeout, defaultConnect)
	}
	other := &http.Transport{
		DialContext: g.network.dialer(connect), TLSHandshakeTimeout: connect, ResponseHeaderTimeout: seconds(c.SockReadTimeout, defaultIdle),
		TLSClientConfig:    &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12, InsecureSkipVerify: !c.TLSValidation}, //nolint:gosec // the remote's own setting
		DisableCompression: true, ForceAttemptHTTP2: true, MaxResponseHeaderBytes: maxHeader, MaxIdleConnsPerHost: idleConns, IdleConnTimeout: time.Minute,
	}
	if g.proxy != nil {
		other.Proxy = http.ProxyURL(g.proxy)
	}
	if err := checkHeaders(c.Headers); err != nil {
		return err
	}
	own := other
	if c.ClientCert != nil {
		pair, err := tls.X509KeyPair([]byte(*c.ClientCert), []byte(text(g.remote.Secrets.ClientKey)))
		if err != nil {
			return fault.New(fault.Invalid, "The remote's client_cert and client_key are not a pair in PEM.")
		}
		own = other.Clone()
		own.TLSClientConfig.Certificates = []tls.Certificate{pair}
		if g.proxy != nil && g.proxy.Scheme == "https" { // the certificate is for the remote, not for the proxy
			own.DialTLSContext = g.dialProxy(other)
		}
	}
	g.client = &http.Client{Transport: &router{g, own, other}, CheckRedirect: g.redirect}
	g.close = func() { own.CloseIdleConnections(); other.CloseIdleConnections() }
	return nil
}

// dialProxy returns how to reach an https proxy without what is the remote's. With a proxy, net/http dials nothing else over TLS.
func (g *Registry) dialProxy(t *http.Transport) func(ctx context.Context, network, address string) (net.Conn, error) {
	settings := t.TLSClientConfig.Clone()
	settings.ServerName = g.proxy.Hostname()
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := t.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		if t.TLSHandshakeTimeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, t.TLSHandshakeTimeout)
			defer cancel()
		}
		secure := tls.Client(conn, settings)
		if err := secure.HandshakeContext(ctx); err != nil {
			_ = conn.Close()
			return nil, err
		}
		return secure, nil
	}
}

// checkHeaders refuses headers that no request can have. Their values may be secrets and are not told.
func checkHeaders(headers []map[string]string) error {
	for _, h := range headers {
		for key, value := range h {
			if !httpguts.ValidHeaderFieldName(key) || !httpguts.ValidHeaderFieldValue(value) {
				return fault.New(fault.Invalid, "The remote's headers have one that is not well-formed: %.100q.", key)
			}
		}
	}
	return nil
}

// seconds returns a timeout of a remote. Without one, and with 0, which the reference takes for none, it is the usual one: nobody waits for ever.
func seconds(v *float64, otherwise time.Duration) time.Duration {
	if v == nil || *v <= 0 {
		return otherwise
	}
	return time.Duration(min(*v, 24*3600) * float64(time.Second))
}

// Close lets idle connections go.
func (g *Registry) Close() { g.close() }

// router sends requests to the remote's own host through the transport that shows the client certificate.
type router struct {
	registry   *Registry
	own, other *http.Transport
}

// RoundTrip implements http.RoundTripper.
func (r *router) RoundTrip(q *http.Request) (*http.Response, error) {
	g := r.registry
	if g.proxy != nil { // who else checks where the proxy goes?
		if err := g.network.checkProxied(q.URL.Hostname()); err != nil {
			return nil, err
		}
	}
	if registryclient.SameHost(q.URL, g.base) {
		return r.own.RoundTrip(q)
	}
	return r.other.RoundTrip(q)
}
