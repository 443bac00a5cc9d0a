package mirror_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/mirror"
	"github.com/countersign/countersign/internal/pulp"
)

func TestOpen(t *testing.T) {
	t.Parallel()
	bad := "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"
	ftp := "ftp://x"
	for name, edit := range map[string]func(*pulp.Remote){
		"url without a host":     func(r *pulp.Remote) { r.URL = "http://" },
		"url with a user":        func(r *pulp.Remote) { r.URL = "http://u:p@x" },
		"scheme of the url":      func(r *pulp.Remote) { r.URL = ftp },
		"upstream_name":          func(r *pulp.Remote) { r.UpstreamName = "A/../b" },
		"ca_cert":                func(r *pulp.Remote) { r.Connection.CACert = &bad },
		"client_cert":            func(r *pulp.Remote) { r.Connection.ClientCert = &bad },
		"scheme of the sigstore": func(r *pulp.Remote) { r.Sigstore = &ftp },
		"scheme of the proxy":    func(r *pulp.Remote) { r.Connection.ProxyURL = &ftp },
	} {
		r := pulp.Remote{Name: "r", URL: "https://registry.example", UpstreamName: "a/b"}
		edit(&r)
		if _, err := mirror.New(mirror.Options{Log: slog.New(slog.DiscardHandler)}).Open(r); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDockerHub proves that the names of Docker Hub lead to its API, and official images to the library namespace.
func TestDockerHub(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ name, want string }{ // the name of the repository; host and path of the request
		"https://docker.io":            {name: "alpine", want: "registry-1.docker.io:443 /v2/library/alpine/tags/list"},
		"https://index.docker.io/":     {name: "alpine", want: "registry-1.docker.io:443 /v2/library/alpine/tags/list"},
		"https://registry-1.docker.io": {name: "grafana/loki", want: "registry-1.docker.io:443 /v2/grafana/loki/tags/list"},
		"https://quay.io":              {name: "alpine", want: "quay.io:443 /v2/alpine/tags/list"},
	}
	for url, tt := range tests {
		var at string
		s, _, _ := tlsServer(t, func(w http.ResponseWriter, r *http.Request) { at += " " + r.URL.Path; oneTag(w, r) })
		proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			at = r.Host
			r.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("proxy-user:proxy-"+secret)))
			forward(s.Listener.Addr().String(), &atomic.Int64{})(w, r)
		}))
		_, err := open127(t, url, func(r *pulp.Remote) {
			r.UpstreamName, r.Connection.ProxyURL, r.Connection.TLSValidation = tt.name, &proxy.URL, false
		}).Tags(t.Context())
		if err != nil || at != tt.want {
			t.Errorf("%s: %q, %v, want %q", url, at, err, tt.want)
		}
		proxy.Close()
	}
}

// TestPrivateAddresses proves that addresses that are not public are refused, in every form and after a lookup.
func TestPrivateAddresses(t *testing.T) {
	t.Parallel()
	for _, host := range []string{
		"127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
		"255.255.255.255", "198.18.0.1", "192.0.0.8", "[::1]", "[::]", "[fe80::1]", "[fc00::1]", "[fd12::1]", "[ff02::1]",
		"[::ffff:127.0.0.1]", "[::ffff:10.0.0.1]", "[::127.0.0.1]", "[64:ff9b::10.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]",
		"[2002:a00:1::1]", "[2001:0:1::1]", "[fe80::1%25lo]", "private.example", "both.example", "2130706433", "0x7f.1",
	} {
		g := open(t, "http://"+host+":9", mirror.Options{Lookup: func(_ context.Context, name string) ([]netip.Addr, error) {
			switch name {
			case "both.example":
				return []netip.Addr{netip.MustParseAddr("93.184.216.34"), netip.MustParseAddr("10.0.0.1")}, nil
			default: // also the result of a resolver for 2130706433
				return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
			}
		}})
		_, err := g.Head(t.Context(), "latest")
		if !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), "mirror.allow_private_addresses") {
			t.Errorf("%s: %v", host, err)
		}
	}
}

func TestAllowedAddresses(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"tags":["a"]}`) }))
	defer s.Close()
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	for _, allow := range []string{"127.0.0.0/8", "127.0.0.1/32"} {
		o := mirror.Options{AllowPrivate: []netip.Prefix{netip.MustParsePrefix(allow)}, Lookup: func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
		}}
		for _, host := range []string{"127.0.0.1", "registry.example"} {
			if tags, err := open(t, "http://"+host+":"+port, o).Tags(t.Context()); err != nil || len(tags) != 1 {
				t.Errorf("%s with %s allowed: %v, %v", host, allow, tags, err)
			}
		}
	}
}

// TestRebinding proves that each connection looks up the name and dials the checked address: a name that resolves to
// a public address first and to a private one later is refused later.
func TestRebinding(t *testing.T) {
	t.Parallel()
	private := newWitness(t, nil)
	_, port, _ := net.SplitHostPort(private.Listener.Addr().String())
	var asked atomic.Int64
	g := open(t, "http://rebind.example:"+port, mirror.Options{Lookup: func(context.Context, string) ([]netip.Addr, error) {
		if asked.Add(1) == 1 {
			return []netip.Addr{netip.MustParseAddr("203.0.114.1")}, nil // public, and without a server
		}
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
	}}, func(r *pulp.Remote) { brief := 0.2; r.Connection.ConnectTimeout = &brief })
	_, first := g.Head(t.Context(), "latest")
	_, second := g.Head(t.Context(), "latest")
	if first == nil || !fault.Is(second, fault.Denied) {
		t.Errorf("first %v, second %v", first, second)
	}
	private.check(t, false)
}

func TestLookupIsBounded(t *testing.T) {
	t.Parallel()
	lookup := func(ctx context.Context, _ string) ([]netip.Addr, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	g := open(t, "http://slow.example", mirror.Options{Lookup: lookup}, func(r *pulp.Remote) { r.Connection.SockConnectTimeout = ptr(0.1) })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := g.Head(ctx, "a"); !fault.Is(err, fault.Unavailable) || ctx.Err() != nil {
		t.Error(err)
	}
}

func TestSecondAddress(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(oneTag))
	defer s.Close()
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	lookup := func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("127.9.9.9"), netip.MustParseAddr("127.0.0.1")}, nil // the first has no server
	}
	if _, err := open(t, "http://two.example:"+port, mirror.Options{AllowPrivate: loopback, Lookup: lookup}).Tags(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestCertificates proves that the client certificate is sent to the remote and not to the host of a redirect.
func TestCertificates(t *testing.T) {
	t.Parallel()
	layer := "layer"
	elsewhere, _, told := tlsServer(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, layer) })
	s, ca, shown := tlsServer(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/blobs/") {
			http.Redirect(w, r, elsewhere.URL+"/layer", http.StatusTemporaryRedirect)
			return
		}
		oneTag(w, r)
	})
	cert, key := clientPair(t)
	g := open127(t, s.URL, func(r *pulp.Remote) {
		r.Connection.CACert, r.Connection.ClientCert, r.Secrets.ClientKey = &ca, &cert, &key
	})
	if tags, err := g.Tags(t.Context()); err != nil || len(tags) != 1 {
		t.Fatal(tags, err)
	}
	body, err := g.Blob(t.Context(), digest.FromString(layer), int64(len(layer)))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(body); err != nil || string(got) != layer {
		t.Errorf("%q, %v", got, err)
	}
	_ = body.Close()
	if shown.Load() == 0 || told.Load() != 0 {
		t.Errorf("the client certificate was sent to the remote %d times and to the other host %d times", shown.Load(), told.Load())
	}
	// A certificate of an unknown authority is not followed by another attempt.
	var lines bytes.Buffer
	g = open(t, s.URL, mirror.Options{AllowPrivate: loopback, Log: slog.New(slog.NewTextHandler(&lines, &slog.HandlerOptions{Level: slog.LevelDebug}))}, func(r *pulp.Remote) {
		r.Connection.MaxRetries = nil
	})
	if _, err := g.Tags(t.Context()); err == nil || strings.Contains(lines.String(), "sent again") {
		t.Errorf("an unknown certificate: %v; %s", err, lines.String())
	}
}

func TestTLSAndProxy(t *testing.T) {
	t.Parallel()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"tags":["a"]}`) }))
	defer s.Close()
	if _, err := open127(t, s.URL).Tags(t.Context()); err == nil {
		t.Error("an unknown certificate is accepted")
	}
	if _, err := open127(t, s.URL, func(r *pulp.Remote) { r.Connection.TLSValidation = false }).Tags(t.Context()); err != nil {
		t.Errorf("without validation: %v", err)
	}
	var proxied atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Proxy-Authorization") == "" {
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		proxied.Add(1)
		_, _ = io.WriteString(w, `{"tags":["p"]}`)
	}))
	defer proxy.Close()
	through := func(r *pulp.Remote) {
		user, password := "proxy-user", "proxy-"+secret
		r.Connection.ProxyURL, r.Secrets.ProxyUsername, r.Secrets.ProxyPassword = &proxy.URL, &user, &password
	}
	if tags, err := open127(t, "http://registry.example", through).Tags(t.Context()); err != nil || fmt.Sprint(tags) != "[p]" || proxied.Load() != 1 {
		t.Errorf("through a proxy: %v, %v", tags, err)
	}
	if _, err := open127(t, "http://10.0.0.1", through).Tags(t.Context()); !fault.Is(err, fault.Denied) {
		t.Errorf("a private address through a proxy: %v", err)
	}
	if _, err := open(t, "http://registry.example", mirror.Options{}, through).Tags(t.Context()); !fault.Is(err, fault.Denied) {
		t.Errorf("a proxy on a private address: %v", err)
	}
}

// TestProxiesForTLS proves that proxies receive neither the credentials nor the client certificate of the remote,
// that the remote does not receive those of the proxy, and that private addresses are refused behind a proxy too.
func TestProxiesForTLS(t *testing.T) {
	t.Parallel()
	s, _, shown := tlsServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Proxy-Authorization") != "" {
			t.Error("the remote receives the password of the proxy")
		}
		if user, password, ok := r.BasicAuth(); !ok || user != "robot" || password != secret {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		oneTag(w, r)
	})
	cert, key := clientPair(t)
	var passed atomic.Int64
	plain := httptest.NewServer(forward(s.Listener.Addr().String(), &passed))
	defer plain.Close()
	secure, _, told := tlsServer(t, forward(s.Listener.Addr().String(), &passed))
	for _, proxy := range []string{plain.URL, secure.URL} {
		passed.Store(0)
		shown.Store(0)
		g := open127(t, "https://registry.example", func(r *pulp.Remote) {
			r.Connection.ProxyURL, r.Secrets.ProxyUsername, r.Secrets.ProxyPassword = &proxy, ptr("proxy-user"), ptr("proxy-"+secret)
			r.Connection.TLSValidation, r.Connection.ClientCert, r.Secrets.ClientKey = false, &cert, &key
		})
		if tags, err := g.Tags(t.Context()); err != nil || len(tags) != 1 || passed.Load() == 0 || shown.Load() == 0 {
			t.Errorf("%s: %v, %v; %d connections, %d certificates", proxy, tags, err, passed.Load(), shown.Load())
		}
		_, err := open127(t, "https://registry.example", func(r *pulp.Remote) {
			r.Connection.ProxyURL, r.Secrets.ProxyUsername, r.Secrets.ProxyPassword, r.Connection.TLSValidation = &proxy, ptr("proxy-user"), ptr("wrong-"+secret), false
		}).Tags(t.Context())
		if err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s with a wrong password: %v", proxy, err)
		}
	}
	if told.Load() != 0 {
		t.Error("the proxy receives the client certificate")
	}
	for _, host := range []string{"2130706433", "0x7f.1", "127.0.0.1.", "0177.0.0.1", "localhost", "api.localhost", "[::ffff:10.0.0.1]", "169.254.169.254"} {
		passed.Store(0)
		_, err := open(t, "https://"+host, mirror.Options{AllowPrivate: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}, func(r *pulp.Remote) {
			r.Connection.ProxyURL = &plain.URL
		}).Tags(t.Context())
		private := strings.Contains(host, "10.0") || strings.HasPrefix(host, "169")
		if private != fault.Is(err, fault.Denied) || passed.Load() != 0 {
			t.Errorf("%s through a proxy: %v", host, err)
		}
	}
}

// TestProxiesOfTheEnvironment proves that remotes do not use the proxies of the environment.
func TestProxiesOfTheEnvironment(t *testing.T) {
	other := newWitness(t, nil)
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"} {
		t.Setenv(name, other.URL)
	}
	s := httptest.NewServer(http.HandlerFunc(oneTag))
	defer s.Close()
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	lookup := func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
	}
	if _, err := open(t, "http://registry.example:"+port, mirror.Options{AllowPrivate: loopback, Lookup: lookup}).Tags(t.Context()); err != nil {
		t.Error(err)
	}
	other.check(t, false)
}

func TestRateLimit(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(oneTag))
	defer s.Close()
	g := open127(t, s.URL, func(r *pulp.Remote) { r.Connection.RateLimit = ptr(int64(20)) })
	began := time.Now()
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			if _, err := g.Tags(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if took := time.Since(began); took < 190*time.Millisecond {
		t.Errorf("5 requests at 20 a second took %v", took)
	}
}

// TestHeadersOfTheRemote proves that requests have the remote's headers, but not those that would change the host or
// the length, and that malformed headers are refused.
func TestHeadersOfTheRemote(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Token") != secret || r.Host == "evil.test" || r.Header.Get("User-Agent") != "mirror/1" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		oneTag(w, r)
	}))
	defer s.Close()
	g := open(t, s.URL, mirror.Options{AllowPrivate: loopback, UserAgent: "mirror/1"}, func(r *pulp.Remote) {
		r.Connection.Headers = []map[string]string{{"x-token": secret}, {"Host": "evil.test"}, {"Content-Length": "100"}, {"Transfer-Encoding": "chunked"}}
	})
	if _, err := g.Tags(t.Context()); err != nil {
		t.Error(err)
	}
	for _, h := range []map[string]string{{"X Token": "x"}, {"X-Token": secret + "\r\nHost: x"}, {"": "x"}} {
		_, err := mirror.New(mirror.Options{}).Open(pulp.Remote{URL: "http://h", UpstreamName: "a", Connection: pulp.Connection{Headers: []map[string]string{h}}})
		if !fault.Is(err, fault.Invalid) || strings.Contains(err.Error(), secret) {
			t.Errorf("%q: %v", h, err)
		}
	}
}
