package mirror

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/time/rate"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/registryclient"
)

// Defaults and bounds of the settings of remotes.
const (
	defaultRetries = 3
	defaultConnect = 30 * time.Second
	defaultIdle    = 60 * time.Second // of each read
	maxTimeout     = 24 * time.Hour
	maxRetries     = 10
	maxRedirects   = 5
	maxHeader      = 64 << 10 // bytes of a response's header
	// maxExchange bounds the time for the headers of a response, over all redirects, and for a whole response but a blob.
	maxExchange = 10 * time.Minute
	idleConns   = 100
)

// connect makes the client of the registry.
func (g *Registry) connect() error {
	c := g.remote.Connection
	header, err := headers(c.Headers)
	if err != nil {
		return err
	}
	transport, err := g.transport()
	if err != nil {
		return err
	}
	o := registryclient.Options{
		Base: g.base, Transport: transport, Login: g.login(), Untrusted: true, MaxRedirects: maxRedirects,
		UserAgent: g.network.UserAgent, Header: header, Pace: g.network.Pace,
		HeaderTimeout: maxExchange, IdleTimeout: seconds(c.SockReadTimeout, defaultIdle),
		Retries: g.retries(), Retrying: g.logRetry,
	}
	if c.RateLimit != nil && *c.RateLimit > 0 {
		o.Limiter = rate.NewLimiter(rate.Limit(*c.RateLimit), 1)
	}
	if g.network.WrapTransport != nil {
		o.Transport = g.network.WrapTransport(transport)
	}
	g.client, g.close = registryclient.New(o), transport.close
	return nil
}

// retries returns the number of further attempts of a request, and of further connections for one blob.
func (g *Registry) retries() int {
	if n := g.remote.Connection.MaxRetries; n != nil {
		return int(min(*n, maxRetries))
	}
	return defaultRetries
}

func (g *Registry) logRetry(ctx context.Context, at *url.URL, err error, wait time.Duration) {
	g.network.Log.DebugContext(ctx, "request to a remote is sent again",
		slog.String("url", registryclient.PlainURL(at)), slog.Duration("after", wait), slog.Any("err", err))
}

func (g *Registry) login() registryclient.Login {
	return registryclient.Login{
		Username: text(g.remote.Secrets.Username),
		Password: func() (string, error) { return text(g.remote.Secrets.Password), nil },
		Trusts:   g.trusts,
	}
}

// trusts reports whether a token service on another host may receive the password: one of the remote's registered
// domain, or one that the remote names. It must speak https, unless the remote itself does not.
func (g *Registry) trusts(realm *url.URL) bool {
	named := registryclient.HostIn(realm, g.remote.Connection.TokenHosts) && (realm.Scheme == "https" || g.base.Scheme == "http")
	return named || registryclient.SameDomain(realm, g.base)
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// headers returns the headers of a remote. It returns an Invalid error if one is malformed; the error does not
// contain values, which may be secrets.
func headers(settings []map[string]string) (http.Header, error) {
	all := http.Header{}
	for _, h := range settings {
		for key, value := range h {
			if !httpguts.ValidHeaderFieldName(key) || !httpguts.ValidHeaderFieldValue(value) {
				return nil, fault.New(fault.Invalid, "The remote's headers have one that is not well-formed: %.100q.", key)
			}
			all.Set(key, value)
		}
	}
	return all, nil
}

// seconds returns a timeout of a remote, or the default one if it has none or 0: no request may last for ever.
func seconds(v *float64, otherwise time.Duration) time.Duration {
	if v == nil || *v <= 0 {
		return otherwise
	}
	return time.Duration(min(*v, maxTimeout.Seconds()) * float64(time.Second))
}

// transport connects to the remote's own host with its client certificate, and to other hosts without.
type transport struct {
	guard      registryclient.Guard
	base       *url.URL
	proxy      *url.URL // nil without a proxy
	own, other *http.Transport
}

// transport returns the transport for the remote's settings. It returns an Invalid error if one cannot be used.
func (g *Registry) transport() (*transport, error) {
	c := g.remote.Connection
	t := &transport{guard: g.network.guard(), base: g.base}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if c.CACert != nil && !roots.AppendCertsFromPEM([]byte(*c.CACert)) {
		return nil, fault.New(fault.Invalid, "The remote's ca_cert holds no certificate.")
	}
	if t.proxy, err = g.proxyURL(); err != nil {
		return nil, err
	}
	connect := seconds(c.ConnectTimeout, defaultConnect)
	if c.SockConnectTimeout != nil {
		connect = seconds(c.SockConnectTimeout, defaultConnect)
	}
	t.other = &http.Transport{
		DialContext: t.guard.Dialer(connect), TLSHandshakeTimeout: connect,
		ResponseHeaderTimeout: seconds(c.SockReadTimeout, defaultIdle),
		TLSClientConfig: &tls.Config{
			RootCAs: roots, MinVersion: tls.VersionTLS12,
			InsecureSkipVerify: !c.TLSValidation, //nolint:gosec // the remote's own setting
		},
		DisableCompression: true, ForceAttemptHTTP2: true, MaxResponseHeaderBytes: maxHeader,
		MaxIdleConnsPerHost: idleConns, IdleConnTimeout: time.Minute,
	}
	if t.proxy != nil {
		t.other.Proxy = http.ProxyURL(t.proxy)
	}
	t.own = t.other
	if c.ClientCert != nil {
		return t, t.present(*c.ClientCert, text(g.remote.Secrets.ClientKey))
	}
	return t, nil
}

// proxyURL returns the remote's proxy with its credentials, or nil.
func (g *Registry) proxyURL() (*url.URL, error) {
	if g.remote.Connection.ProxyURL == nil {
		return nil, nil
	}
	proxy, ok := registryclient.ParseURL(*g.remote.Connection.ProxyURL)
	if !ok {
		return nil, fault.New(fault.Invalid, "The remote's proxy_url is not http(s)://host[:port]; its user goes into proxy_username.")
	}
	if user := text(g.remote.Secrets.ProxyUsername); user != "" {
		proxy.User = url.UserPassword(user, text(g.remote.Secrets.ProxyPassword))
	}
	return proxy, nil
}

// present adds a client certificate to connections to the remote's own host, and not to those to an https proxy.
func (t *transport) present(cert, key string) error {
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		return fault.New(fault.Invalid, "The remote's client_cert and client_key are not a pair in PEM.")
	}
	t.own = t.other.Clone()
	t.own.TLSClientConfig.Certificates = []tls.Certificate{pair}
	if t.proxy != nil && t.proxy.Scheme == "https" { // net/http uses this function for the proxy only
		t.own.DialTLSContext = t.dialProxy
	}
	return nil
}

// dialProxy connects to an https proxy without the client certificate.
func (t *transport) dialProxy(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := t.other.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if t.other.TLSHandshakeTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, t.other.TLSHandshakeTimeout)
		defer cancel()
	}
	settings := t.other.TLSClientConfig.Clone()
	settings.ServerName = t.proxy.Hostname()
	secure := tls.Client(conn, settings)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return secure, nil
}

// RoundTrip implements http.RoundTripper. A proxy connects by itself, so that the guard checks the host before.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if t.proxy != nil {
		if err := t.guard.CheckProxied(r.URL.Hostname()); err != nil {
			return nil, err
		}
	}
	if registryclient.SameHost(r.URL, t.base) {
		return t.own.RoundTrip(r)
	}
	return t.other.RoundTrip(r)
}

func (t *transport) close() {
	t.own.CloseIdleConnections()
	t.other.CloseIdleConnections()
}
