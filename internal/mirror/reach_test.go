package mirror_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
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

// ptr returns a pointer to a value.
func ptr[T any](v T) *T { return &v }

func pemOf(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// clientPair makes a client's certificate and its key.
func clientPair(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mirror"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	bare, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pemOf("CERTIFICATE", der), pemOf("PRIVATE KEY", bare)
}

// tlsServer asks for client certificates and counts those that it is shown. It writes its own certificate down as PEM.
func tlsServer(t *testing.T, answer http.HandlerFunc) (s *httptest.Server, ca string, shown *atomic.Int64) {
	t.Helper()
	shown = &atomic.Int64{}
	s = httptest.NewUnstartedServer(answer)
	s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert, VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error {
		shown.Add(int64(len(raw)))
		return nil
	}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s, pemOf("CERTIFICATE", s.Certificate().Raw), shown
}

func oneTag(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"tags":["a"]}`) }

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
		t.Errorf("the certificate was shown to the remote %d times, elsewhere %d times", shown.Load(), told.Load())
	}
	// A certificate that is not known is no reason to try again.
	var lines bytes.Buffer
	g = open(t, s.URL, mirror.Options{AllowPrivate: loopback, Log: slog.New(slog.NewTextHandler(&lines, &slog.HandlerOptions{Level: slog.LevelDebug}))}, func(r *pulp.Remote) {
		r.Connection.MaxRetries = nil
	})
	if _, err := g.Tags(t.Context()); err == nil || strings.Contains(lines.String(), "sent again") {
		t.Errorf("an unknown certificate: %v; %s", err, lines.String())
	}
}

// forward is a proxy for CONNECT, which takes whatever host to one address.
func forward(to string, passed *atomic.Int64) http.HandlerFunc {
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("proxy-user:proxy-"+secret))
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Header.Get("Proxy-Authorization") != want || r.Header.Get("Authorization") != "" {
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		passed.Add(1)
		far, err := net.Dial("tcp", to)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		near, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		_, _ = io.WriteString(near, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { _, _ = io.Copy(far, near); _ = far.Close() }()
		_, _ = io.Copy(near, far)
		_ = near.Close()
	}
}

func TestProxiesForTLS(t *testing.T) {
	t.Parallel()
	s, _, shown := tlsServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Proxy-Authorization") != "" {
			t.Error("the remote learns the proxy's password")
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
		t.Error("the proxy is shown the client certificate")
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

// The environment's proxies are not the remotes'.
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
		return []netip.Addr{netip.MustParseAddr("127.9.9.9"), netip.MustParseAddr("127.0.0.1")}, nil // nobody listens at the first
	}
	if _, err := open(t, "http://two.example:"+port, mirror.Options{AllowPrivate: loopback, Lookup: lookup}).Tags(t.Context()); err != nil {
		t.Error(err)
	}
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

func TestTokens(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	for name, c := range map[string]struct {
		token func(w http.ResponseWriter)
		want  string // in the error; empty: none
		asked int64  // how often the token service is asked
	}{
		"endless": {func(w http.ResponseWriter) { endless(w, strings.Repeat(" ", 64<<10)) }, "token service", 0},
		"huge":    {func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{"token":"`+strings.Repeat("x", 2<<20)+`"}`) }, "token service", 0},
		"none":    {func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{}`) }, "no token", 1},
		"no good": {func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{"token":"stale"}`) }, "401, message='Unauthorized', url='http://127.0.0.1:", 1},
		"gone":    {func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound) }, "404, message='Not Found'", 1},
		"busy once": {func(w http.ResponseWriter) {
			if asked.Load() == 1 {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			_, _ = io.WriteString(w, `{"token":"good"}`)
		}, "", 2},
		"header that breaks out": {func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{"token":"a\r\nX: y"}`) }, "Cannot reach the remote", 0},
	} {
		asked.Store(0)
		var s *httptest.Server
		s = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.URL.Path == "/token":
				asked.Add(1)
				c.token(w)
			case r.Header.Get("Authorization") == "Bearer good":
				oneTag(w, r)
			default:
				w.Header().Set("WWW-Authenticate", `Bearer realm="`+s.URL+`/token",service="x"`)
				w.WriteHeader(http.StatusUnauthorized)
			}
		}))
		_, err := open127(t, s.URL, func(r *pulp.Remote) { r.Connection.MaxRetries = ptr(int64(1)) }).Tags(t.Context())
		if c.want == "" && err != nil || c.want != "" && (!fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), c.want)) || c.asked > 0 && asked.Load() != c.asked {
			t.Errorf("%s: %v after %d tokens", name, err, asked.Load())
		}
		s.Close()
	}
}

// A token service may not send a blob's token request on to another host, though the blob may be there.
func TestTokenServicesRedirectNowhere(t *testing.T) {
	t.Parallel()
	other := newWitness(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"token":"x"}`) })
	var s *httptest.Server
	s = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			http.Redirect(w, r, other.URL, http.StatusFound)
			return
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+s.URL+`/token"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer s.Close()
	if _, err := open127(t, s.URL).Blob(t.Context(), digest.FromString("x"), 1); !fault.Is(err, fault.Denied) {
		t.Error(err)
	}
	other.check(t, false)
}

func TestRedirectsDownAndAround(t *testing.T) {
	t.Parallel()
	other := newWitness(t, nil)
	var hops atomic.Int64
	s, ca, _ := tlsServer(t, func(w http.ResponseWriter, r *http.Request) {
		if hops.Add(1); strings.Contains(r.URL.Path, digest.FromString("down").Encoded()) {
			http.Redirect(w, r, other.URL+"/?sig="+secret, http.StatusFound)
			return
		}
		http.Redirect(w, r, r.URL.Path, http.StatusFound)
	})
	var lines bytes.Buffer
	g := open(t, s.URL, mirror.Options{AllowPrivate: loopback, Log: slog.New(slog.NewTextHandler(&lines, &slog.HandlerOptions{Level: slog.LevelDebug}))}, func(r *pulp.Remote) {
		r.Connection.CACert, r.Connection.MaxRetries = &ca, nil
	})
	if _, err := g.Blob(t.Context(), digest.FromString("down"), 1); !fault.Is(err, fault.Denied) || strings.Contains(err.Error(), secret) {
		t.Errorf("from https to http: %v", err)
	}
	if _, err := g.Manifest(t.Context(), string(digest.FromString("down"))); !fault.Is(err, fault.Denied) || strings.Contains(err.Error(), secret) {
		t.Errorf("from https to http: %v", err)
	}
	hops.Store(0)
	if _, err := g.Blob(t.Context(), digest.FromString("around"), 1); !fault.Is(err, fault.Unavailable) || hops.Load() != 6 {
		t.Errorf("around: %v after %d", err, hops.Load())
	}
	other.check(t, false)
	if strings.Contains(lines.String(), secret) {
		t.Errorf("the log: %s", lines.String())
	}
}

// What a redirect's address lets in with is in no error and no log.
func TestNothingSecretIsLogged(t *testing.T) {
	t.Parallel()
	var away string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, away, http.StatusFound) }))
	defer s.Close()
	closed := httptest.NewServer(nil)
	away = closed.URL + "/x?X-Amz-Signature=" + secret
	closed.Close()
	var lines bytes.Buffer
	log := slog.New(slog.NewTextHandler(&lines, &slog.HandlerOptions{Level: slog.LevelDebug}))
	g := open(t, s.URL, mirror.Options{AllowPrivate: loopback, Log: log}, func(r *pulp.Remote) { r.Connection.MaxRetries = ptr(int64(1)) })
	_, err := g.Blob(t.Context(), digest.FromString("x"), 1)
	if err == nil || strings.Contains(err.Error(), secret) || !strings.Contains(lines.String(), "sent again") || strings.Contains(lines.String(), secret) {
		t.Errorf("%v; %s", err, lines.String())
	}
}

func TestManifests(t *testing.T) {
	t.Parallel()
	payload := `{"schemaVersion":2}`
	sha256, sha512 := digest.FromString(payload), digest.SHA512.FromString(payload)
	other := digest.FromString("other")
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, mediaType := range []string{pulp.DockerManifest, pulp.DockerList, pulp.OCIManifest, pulp.OCIIndex} {
			if !strings.Contains(r.Header.Get("Accept"), mediaType) {
				t.Errorf("%s is not asked for", mediaType)
			}
		}
		switch r.URL.Path {
		case "/v2/src/app/manifests/absent":
			w.WriteHeader(http.StatusNotFound)
			return
		case "/v2/src/app/manifests/odd":
			w.Header().Set("Docker-Content-Digest", "sha256:../../x")
		default:
			w.Header().Set("Docker-Content-Digest", sha256.String())
		}
		w.Header().Set("Content-Type", pulp.OCIManifest+"; charset=utf-8")
		_, _ = io.WriteString(w, payload)
	}))
	defer s.Close()
	g := open127(t, s.URL, func(r *pulp.Remote) {
		r.Connection.Headers = []map[string]string{{"Accept": "text/html"}, {"Host": "evil.test"}}
	})
	if d, err := g.Head(t.Context(), "a"); err != nil || d != (mirror.Descriptor{MediaType: pulp.OCIManifest, Digest: sha256, Size: int64(len(payload))}) {
		t.Errorf("%+v, %v", d, err)
	}
	if d, err := g.Head(t.Context(), "odd"); err != nil || d.Digest != "" {
		t.Errorf("%+v, %v", d, err)
	}
	for reference, want := range map[string]digest.Digest{"a": sha256, sha256.String(): sha256, sha512.String(): sha512} {
		if m, err := g.Manifest(t.Context(), reference); err != nil || m.Digest != want || string(m.Payload) != payload || m.MediaType != pulp.OCIManifest {
			t.Errorf("%s: %+v, %v", reference, m, err)
		}
	}
	if _, err := g.Manifest(t.Context(), other.String()); !fault.Is(err, fault.Unavailable) {
		t.Errorf("other bytes: %v", err)
	}
	if _, err := g.Head(t.Context(), "absent"); !fault.Is(err, fault.NotFound) || err.Error() != "404, message='Not Found', url='"+s.URL+"/v2/src/app/manifests/absent'" {
		t.Errorf("absent: %v", err)
	}
	for _, reference := range []string{"", "../../secret", "a/b", "a?b", "sha256:abc", "md5:d41d8cd98f00b204e9800998ecf8427e", "a b"} {
		_, head := g.Head(t.Context(), reference)
		_, get := g.Manifest(t.Context(), reference)
		_, blob := g.Blob(t.Context(), digest.Digest(reference), 1)
		_, signatures := g.Signatures(t.Context(), mirror.Extension, digest.Digest(reference))
		for _, err := range []error{head, get, blob, signatures} {
			if !fault.Is(err, fault.Invalid) {
				t.Errorf("%q: %v", reference, err)
			}
		}
	}
}

// A list that breaks off is asked for again, like one that never came.
func TestDocumentsThatBreakOff(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "14")
		if asked.Add(1) == 1 {
			_, _ = io.WriteString(w, `{"tags":`)
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
		_, _ = io.WriteString(w, `{"tags":["a"]}`)
	}))
	defer s.Close()
	if _, err := open127(t, s.URL).Tags(t.Context()); !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "broke off") {
		t.Errorf("without retries: %v", err)
	}
	asked.Store(0)
	if tags, err := open127(t, s.URL, func(r *pulp.Remote) { r.Connection.MaxRetries = ptr(int64(1)) }).Tags(t.Context()); err != nil || len(tags) != 1 {
		t.Errorf("%v, %v", tags, err)
	}
}

// A remote that knows no ranges and breaks off also while what was read already is skipped.
func TestBlobsThatBreakWhileSkipping(t *testing.T) {
	t.Parallel()
	content := []byte(strings.Repeat("0123456789", 50_000))
	cuts := []int{300_000, 100_000}
	var asked atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		if n := int(asked.Add(1)); n <= len(cuts) {
			_, _ = w.Write(content[:cuts[n-1]])
			panic(http.ErrAbortHandler)
		}
		_, _ = w.Write(content)
	}))
	defer s.Close()
	for retries, want := range map[int64]bool{1: false, 2: true} {
		asked.Store(0)
		body, err := open127(t, s.URL, func(r *pulp.Remote) { r.Connection.MaxRetries = &retries }).Blob(t.Context(), digest.FromBytes(content), -1)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(body)
		if (err == nil && bytes.Equal(got, content)) != want || !want && !fault.Is(err, fault.Unavailable) {
			t.Errorf("with %d retries: %d bytes, %v", retries, len(got), err)
		}
		_ = body.Close()
	}
}

// Who has been sent all bytes has them, however the connection ends.
func TestBlobsThatBreakAtTheirEnd(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		_, _ = io.WriteString(w, "content")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	defer s.Close()
	body, err := open127(t, s.URL).Blob(t.Context(), digest.FromString("content"), 7)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(body); err != nil || string(got) != "content" || asked.Load() != 1 {
		t.Errorf("%q, %v after %d requests", got, err, asked.Load())
	}
	_ = body.Close()
}

// A reader may take its time before it reads, and between.
func TestSlowReaders(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "content") }))
	defer s.Close()
	body, err := open127(t, s.URL, func(r *pulp.Remote) { r.Connection.SockReadTimeout = ptr(0.5) }).Blob(t.Context(), digest.FromString("content"), 7)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = body.Close() }()
	for _, want := range []string{"con", "tent"} {
		time.Sleep(800 * time.Millisecond)
		got := make([]byte, len(want))
		if _, err := io.ReadFull(body, got); err != nil || string(got) != want {
			t.Errorf("%q, %v", got, err)
		}
	}
}

// Who goes away ends what waits for them.
func TestWhoGoesAway(t *testing.T) {
	t.Parallel()
	stop := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "con")
		_ = http.NewResponseController(w).Flush()
		<-stop
	}))
	defer s.Close()
	defer close(stop)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	body, err := open127(t, s.URL).Blob(ctx, digest.FromString("content"), 7)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := io.ReadAll(body); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	_ = body.Close()
}

// Names that are no tags are counted, not kept, and not all of them are logged.
func TestNamesWithoutEnd(t *testing.T) {
	t.Parallel()
	var pages atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		names := make([]string, 10_000)
		for i := range names {
			names[i] = fmt.Sprintf("no/tag/%d/%d", pages.Load(), i)
		}
		w.Header().Set("Link", fmt.Sprintf(`</v2/src/app/tags/list?last=%d>; rel="next"`, pages.Add(1)))
		_ = json.NewEncoder(w).Encode(map[string]any{"tags": names})
	}))
	defer s.Close()
	var lines bytes.Buffer
	g := open(t, s.URL, mirror.Options{AllowPrivate: loopback, Log: slog.New(slog.NewTextHandler(&lines, nil))})
	if _, err := g.Tags(t.Context()); err == nil || pages.Load() > 12 {
		t.Errorf("%v after %d pages", err, pages.Load())
	}
	if n := strings.Count(lines.String(), "tag left out"); n == 0 || n > 20 {
		t.Errorf("%d lines in the log", n)
	}
	// Pages without names end too.
	pages.Store(0)
	empty := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", fmt.Sprintf(`<?last=%d>; rel="next"`, pages.Add(1)))
		_, _ = io.WriteString(w, `{"tags":null}`)
	}))
	defer empty.Close()
	if _, err := open127(t, empty.URL).Tags(t.Context()); err == nil || pages.Load() != 1000 {
		t.Errorf("%v after %d empty pages", err, pages.Load())
	}
}

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

func TestSignaturesAreBounded(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("x", 1_500_000)
	var asked atomic.Int64
	files := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		_, _ = io.WriteString(w, large)
	}))
	defer files.Close()
	g := open127(t, "http://127.0.0.1:1", func(r *pulp.Remote) { r.Sigstore = &files.URL })
	if _, err := g.Signatures(t.Context(), mirror.Lookaside, digest.FromString("m")); !fault.Is(err, fault.Unavailable) || asked.Load() != 3 {
		t.Errorf("%v after %d", err, asked.Load())
	}
}

func TestDockerHub(t *testing.T) {
	t.Parallel()
	for url, c := range map[string]struct{ name, want string }{
		"https://docker.io": {"alpine", "registry-1.docker.io:443 /v2/library/alpine/tags/list"}, "https://index.docker.io/": {"alpine", "registry-1.docker.io:443 /v2/library/alpine/tags/list"},
		"https://registry-1.docker.io": {"grafana/loki", "registry-1.docker.io:443 /v2/grafana/loki/tags/list"}, "https://quay.io": {"alpine", "quay.io:443 /v2/alpine/tags/list"},
	} {
		var at string
		s, _, _ := tlsServer(t, func(w http.ResponseWriter, r *http.Request) { at += " " + r.URL.Path; oneTag(w, r) })
		proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			at = r.Host
			r.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("proxy-user:proxy-"+secret)))
			forward(s.Listener.Addr().String(), &atomic.Int64{})(w, r)
		}))
		_, err := open127(t, url, func(r *pulp.Remote) {
			r.UpstreamName, r.Connection.ProxyURL, r.Connection.TLSValidation = c.name, &proxy.URL, false
		}).Tags(t.Context())
		if err != nil || at != c.want {
			t.Errorf("%s: %q, %v", url, at, err)
		}
		proxy.Close()
	}
}
