package servertls_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/eventually"
	"github.com/countersign/countersign/internal/servertls"
)

// logBuffer is a log that is safe for concurrent use.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// fixture is a server whose handler answers with the name in the verified client certificate.
type fixture struct {
	files    files
	roots    *issued // issued the server's certificates
	clients  *issued // authority of client certificates
	log      *logBuffer
	reloader *servertls.Reloader
	server   *httptest.Server
}

// serve starts a server with a certificate named first.
func serve(t *testing.T, change func(*servertls.Options)) *fixture {
	t.Helper()
	f := &fixture{roots: newAuthority(t, "roots"), clients: newAuthority(t, "clients"), log: &logBuffer{}}
	f.files = newFiles(t, newCertificate(t, "first", f.roots), f.clients)
	o := servertls.Options{
		CertFile: f.files.cert, KeyFile: f.files.key, ClientCAFile: f.files.ca, Interval: time.Millisecond,
		Log: slog.New(slog.NewTextHandler(f.log, nil)),
	}
	if change != nil {
		change(&o)
	}
	var err error
	if f.reloader, err = servertls.New(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	f.server = httptest.NewUnstartedServer(f.reloader.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := "nobody"
		if len(r.TLS.VerifiedChains) > 0 {
			name = r.TLS.VerifiedChains[0][0].Subject.CommonName
		} else if len(r.TLS.PeerCertificates) > 0 {
			name = "unverified"
		}
		_, _ = io.WriteString(w, name)
	})))
	f.server.EnableHTTP2 = true
	f.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	f.server.TLS = f.reloader.Config()
	f.server.StartTLS()
	t.Cleanup(f.server.Close)
	return f
}

// client returns a client with connections of its own and, unless it is nil, a client certificate.
func (f *fixture) client(t *testing.T, certificate *issued, change func(*tls.Config)) *http.Client {
	t.Helper()
	config := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS10}
	config.RootCAs.AddCert(f.roots.certificate)
	if certificate != nil { // also sent to servers that announce other authorities
		pair := certificate.pair()
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	if change != nil {
		change(config)
	}
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// answer is a response, or the error of a request.
type answer struct {
	status   int
	body     string
	protocol string
	server   string // subject of the server's certificate
	tls      *tls.ConnectionState
	err      error
}

func (f *fixture) get(t *testing.T, c *http.Client) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := c.Do(r)
	if err != nil {
		return answer{err: err}
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	return answer{
		status: response.StatusCode, body: string(body), protocol: response.Proto, err: err, tls: response.TLS,
		server: response.TLS.PeerCertificates[0].Subject.CommonName,
	}
}

// reload reloads the files, which must succeed.
func (f *fixture) reload(t *testing.T) {
	t.Helper()
	if err := errors.Join(f.reloader.Reload(t.Context())...); err != nil {
		t.Fatal(err)
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	f := serve(t, func(o *servertls.Options) { o.ClientCAFile = "" })
	if got := f.get(t, f.client(t, nil, nil)); got.protocol != "HTTP/2.0" || got.body != "nobody" || got.server != "first" {
		t.Errorf("a request: %+v, want HTTP/2 and the certificate first", got)
	}
	for version, ok := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		got := f.get(t, f.client(t, nil, func(c *tls.Config) { c.MaxVersion = version }))
		if (got.err == nil) != ok {
			t.Errorf("%s: %v, want success: %t", tls.VersionName(version), got.err, ok)
		}
	}
	for _, want := range []string{`subject="CN=first"`, "expires=", "names=[127.0.0.1]", "file=" + f.files.cert} {
		if !strings.Contains(f.log.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, f.log)
		}
	}
}

// TestReload verifies the ways in which files are replaced: in place, by renames, and by a link to a directory that is
// switched as in Kubernetes.
func TestReload(t *testing.T) {
	t.Parallel()
	for name, replace := range map[string]func(*testing.T, files, *issued){
		"renamed": func(t *testing.T, f files, next *issued) { f.writePair(t, next) },
		"in place": func(t *testing.T, f files, next *issued) {
			if err := errors.Join(os.WriteFile(f.cert, next.certPEM, 0o600), os.WriteFile(f.key, next.keyPEM, 0o600)); err != nil {
				t.Fatal(err)
			}
		},
		"links switched": func(t *testing.T, f files, next *issued) {
			staged := newFiles(t, next, next)
			link := filepath.Join(filepath.Dir(f.cert), "..data_tmp")
			if err := errors.Join(os.Symlink(filepath.Dir(staged.cert), link), os.Rename(link, filepath.Join(filepath.Dir(f.cert), "..data"))); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := serve(t, func(o *servertls.Options) {
				if name == "links switched" {
					o.CertFile, o.KeyFile = linked(t, o.CertFile), linked(t, o.KeyFile)
				}
			})
			open := f.client(t, nil, nil)
			if got := f.get(t, open); got.server != "first" {
				t.Fatalf("the first certificate is %+v", got)
			}
			replace(t, f.files, newCertificate(t, "second", f.roots))
			f.reload(t)
			if got := f.get(t, f.client(t, nil, nil)); got.server != "second" || got.protocol != "HTTP/2.0" {
				t.Errorf("a new connection after the change: %+v, want the certificate second", got)
			}
			if got := f.get(t, open); got.err != nil || got.server != "first" {
				t.Errorf("an open connection after the change: %+v, want it to stay open", got)
			}
		})
	}
}

// linked returns a path in a new directory structure as of Kubernetes: FILE -> ..data/FILE, ..data -> the directory of
// path.
func linked(t *testing.T, path string) string {
	t.Helper()
	dir, name := filepath.Split(path)
	data, link := filepath.Join(dir, "..data"), filepath.Join(dir, "linked-"+name)
	if err := os.Symlink(dir, data); err != nil && !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join("..data", name), link); err != nil {
		t.Fatal(err)
	}
	return link
}

// TestBrokenFiles verifies that files that cannot be used leave the former ones in use, and that each state of them is
// reported once, with the file and the reason, and never with their contents.
func TestBrokenFiles(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		damage func(*testing.T, *fixture)
		want   []string
	}{
		"certificate": {
			damage: func(t *testing.T, f *fixture) { write(t, f.files.cert, []byte("no PEM")) }, want: []string{"tls.cert_file", "tls.crt", "PEM"},
		},
		"key of another certificate": {
			damage: func(t *testing.T, f *fixture) { write(t, f.files.key, newAuthority(t, "x").keyPEM) },
			want:   []string{"tls.key_file", "tls.key", "does not match"},
		},
		"missing key": {
			damage: func(t *testing.T, f *fixture) {
				if err := os.Remove(f.files.key); err != nil {
					t.Fatal(err)
				}
			}, want: []string{"tls.key", "no such file"},
		},
		"client CA": {
			damage: func(t *testing.T, f *fixture) { write(t, f.files.ca, []byte("text")) },
			want:   []string{"tls.client_ca_file", "ca.crt", "no certificate"},
		},
		"invalid client CA": {
			damage: func(t *testing.T, f *fixture) {
				write(t, f.files.ca, []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
			}, want: []string{"tls.client_ca_file", "ca.crt", "x509"},
		},
		"intermediate certificate": {
			damage: func(t *testing.T, f *fixture) {
				text, err := os.ReadFile(f.files.cert)
				if err != nil {
					t.Fatal(err)
				}
				write(t, f.files.cert, append(text, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"...))
			}, want: []string{"tls.cert_file", "intermediate"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := serve(t, nil)
			user := newCertificate(t, "user", f.clients)
			tt.damage(t, f)
			errs := f.reloader.Reload(t.Context())
			if len(errs) != 1 {
				t.Fatalf("errors %v, want one", errs)
			}
			for _, want := range tt.want {
				if !strings.Contains(errs[0].Error(), want) {
					t.Errorf("the error lacks %q: %v", want, errs[0])
				}
			}
			for range 2 {
				if errs := f.reloader.Reload(t.Context()); len(errs) > 0 {
					t.Errorf("unchanged files are reported again: %v", errs)
				}
			}
			if got := f.get(t, f.client(t, user, nil)); got.server != "first" || got.body != "user" {
				t.Errorf("a connection: %+v, want the former files", got)
			}
			f.files.writePair(t, newCertificate(t, "second", f.roots))
			write(t, f.files.ca, f.clients.certPEM)
			f.reload(t)
			if got := f.get(t, f.client(t, user, nil)); got.server != "second" || got.body != "user" {
				t.Errorf("a connection with repaired files: %+v, want them in use", got)
			}
		})
	}
}

// TestBrokenFilesAtStart verifies that a server does not start with files that it cannot use.
func TestBrokenFilesAtStart(t *testing.T) {
	t.Parallel()
	authority := newAuthority(t, "a")
	f := newFiles(t, newCertificate(t, "first", authority), authority)
	for name, o := range map[string]servertls.Options{
		"no certificate": {CertFile: f.cert + "x", KeyFile: f.key},
		"no key":         {CertFile: f.cert, KeyFile: f.cert},
		"no client CA":   {CertFile: f.cert, KeyFile: f.key, ClientCAFile: f.key},
	} {
		o.Log = slog.New(slog.DiscardHandler)
		if r, err := servertls.New(t.Context(), o); err == nil || r != nil || !strings.Contains(err.Error(), filepath.Dir(f.cert)) {
			t.Errorf("%s: New = %v, want an error with the path", name, err)
		}
	}
}

// TestBrokenPairWithNewAuthorities verifies that a broken pair does not prevent the removal of an authority.
func TestBrokenPairWithNewAuthorities(t *testing.T) {
	t.Parallel()
	f := serve(t, nil)
	write(t, f.files.cert, []byte("no PEM"))
	write(t, f.files.ca, newAuthority(t, "others").certPEM)
	if errs := f.reloader.Reload(t.Context()); len(errs) != 1 || !strings.Contains(errs[0].Error(), "tls.cert_file") {
		t.Fatalf("errors %v, want one about the certificate", errs)
	}
	if got := f.get(t, f.client(t, newCertificate(t, "user", f.clients), nil)); got.err == nil {
		t.Errorf("a certificate of the removed authority: %+v, want a refused handshake", got)
	}
	if got := f.get(t, f.client(t, nil, nil)); got.server != "first" {
		t.Errorf("a connection: %+v, want the former certificate", got)
	}
}

func TestClientCertificates(t *testing.T) {
	t.Parallel()
	for name, required := range map[string]bool{"optional": false, "required": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := serve(t, func(o *servertls.Options) { o.ClientCertRequired = required })
			for client, tt := range map[string]struct {
				certificate *issued
				want        string // empty: refused
			}{
				"valid":                       {certificate: newCertificate(t, "user", f.clients), want: "user"},
				"none":                        {want: map[bool]string{false: "nobody"}[required]},
				"other authority":             {certificate: newCertificate(t, "user", newAuthority(t, "clients"))},
				"of the server's authority":   {certificate: newCertificate(t, "user", f.roots)},
				"expired":                     {certificate: issue(t, "user", f.clients, time.Now().Add(-time.Minute))},
				"without the key":             {certificate: &issued{certificate: newCertificate(t, "user", f.clients).certificate, key: newAuthority(t, "x").key}},
				"an authority that it is not": {certificate: newCertificate(t, "user", newCertificate(t, "user2", f.clients))},
			} {
				got := f.get(t, f.client(t, tt.certificate, nil))
				if tt.want == "" && got.err == nil || tt.want != "" && got.body != tt.want {
					t.Errorf("%s: %+v, want %q", client, got, tt.want)
				}
			}
		})
	}
}

// TestStaleClientCertificates verifies that connections do not keep the rights of a client certificate whose authority
// is no longer in the file: neither open ones, over HTTP/1.1 and HTTP/2, nor resumed sessions.
func TestStaleClientCertificates(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		required bool
		version  uint16
		http1    bool
		want     answer
	}{
		"HTTP/2, optional":   {version: tls.VersionTLS13, want: answer{status: http.StatusOK, body: "nobody"}},
		"HTTP/1.1, optional": {version: tls.VersionTLS13, http1: true, want: answer{status: http.StatusOK, body: "nobody"}},
		"HTTP/2, required":   {version: tls.VersionTLS13, required: true, want: answer{status: http.StatusMisdirectedRequest}},
		"TLS 1.2, required":  {version: tls.VersionTLS12, required: true, want: answer{status: http.StatusMisdirectedRequest}},
		"TLS 1.2, optional":  {version: tls.VersionTLS12, want: answer{status: http.StatusOK, body: "nobody"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := serve(t, func(o *servertls.Options) { o.ClientCertRequired = tt.required })
			sessions := tls.NewLRUClientSessionCache(4)
			client := func() *http.Client {
				return f.client(t, newCertificate(t, "user", f.clients), func(c *tls.Config) {
					c.MaxVersion, c.ClientSessionCache = tt.version, sessions
					if tt.http1 {
						c.NextProtos = []string{"http/1.1"}
					}
				})
			}
			open := client()
			if tt.http1 {
				open.Transport.(*http.Transport).ForceAttemptHTTP2 = false //nolint:forcetypeassert // made by client
			}
			if got := f.get(t, open); got.body != "user" {
				t.Fatalf("the first request: %+v", got)
			}
			if got := f.get(t, client()); got.body != "user" || !got.tls.DidResume {
				t.Fatalf("a further connection: %+v, want a resumed session", got)
			}
			if got := f.get(t, open); got.body != "user" {
				t.Fatalf("the open connection before the change: %+v", got)
			}
			write(t, f.files.ca, newAuthority(t, "others").certPEM)
			f.reload(t)
			got := f.get(t, open)
			if got.status != tt.want.status || tt.want.body != "" && got.body != tt.want.body {
				t.Errorf("the open connection: %+v, want %+v", got, tt.want)
			}
			if got := f.get(t, open); got.err == nil {
				t.Errorf("the connection stays open: %+v", got)
			}
			if got := f.get(t, client()); got.err == nil {
				t.Errorf("a resumed session: %+v, want a refused handshake", got)
			}
			write(t, f.files.ca, f.clients.certPEM)
			f.reload(t)
			if got := f.get(t, client()); got.body != "user" {
				t.Errorf("after the authority is back: %+v", got)
			}
		})
	}
}

// TestExpiredOnAnOpenConnection verifies that an open connection loses the rights of a client certificate when it
// expires.
func TestExpiredOnAnOpenConnection(t *testing.T) {
	t.Parallel()
	f := serve(t, nil)
	var passed atomic.Int64
	f.reloader.SetClock(func() time.Time { return time.Now().Add(time.Duration(passed.Load())) })
	open := f.client(t, newCertificate(t, "user", f.clients), nil)
	if got := f.get(t, open); got.body != "user" {
		t.Fatalf("the first request: %+v", got)
	}
	passed.Store(int64(validity + time.Minute))
	if got := f.get(t, open); got.body != "nobody" {
		t.Errorf("a request with an expired certificate: %+v", got)
	}
}

// TestRun verifies that Run reloads changed files and logs broken ones once.
func TestRun(t *testing.T) {
	t.Parallel()
	f := serve(t, nil)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { f.reloader.Run(ctx); close(ended) }()
	broken := []byte("secret contents")
	write(t, f.files.key, broken)
	eventually.True(t, time.Minute, func() bool { return strings.Contains(f.log.String(), "tls.key_file "+f.files.key) }, "a broken key is logged")
	write(t, f.files.ca, newAuthority(t, "others").certPEM)
	eventually.True(t, time.Minute, func() bool { return strings.Contains(f.log.String(), `subject="CN=others"`) }, "an authority is loaded")
	if got := strings.Count(f.log.String(), "failed to find any PEM data in key input"); got != 1 {
		t.Errorf("%d errors about the broken key, want 1:\n%s", got, f.log)
	}
	f.files.writePair(t, newCertificate(t, "second", f.roots))
	eventually.True(t, time.Minute, func() bool { return f.get(t, f.client(t, nil, nil)).server == "second" }, "the certificate is loaded")
	stop()
	<-ended
	if strings.Contains(f.log.String(), string(broken)) {
		t.Errorf("the log has the contents of a file:\n%s", f.log)
	}
}

// TestExpiryWarnings verifies the warnings about certificates that expire soon: once a day, for the certificate, its
// intermediate ones and authorities of clients, and none for certificates that are valid long enough.
func TestExpiryWarnings(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	roots, clients := issue(t, "roots", nil, time.Now().Add(400*day)), issue(t, "clients", nil, time.Now().Add(100*day))
	server := issue(t, "server", roots, time.Now().Add(90*day))
	f := newFiles(t, server, clients)
	log := &logBuffer{}
	r, err := servertls.New(t.Context(), servertls.Options{
		CertFile: f.cert, KeyFile: f.key, ClientCAFile: f.ca, Log: slog.New(slog.NewTextHandler(log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		after             time.Duration
		server, authority int // warnings so far
		expired           int
	}{
		{after: 0},
		{after: 75 * day},
		{after: 77 * day, server: 1},
		{after: 77*day + time.Hour, server: 1},
		{after: 78*day + time.Hour, server: 2},
		{after: 91 * day, server: 3, authority: 1, expired: 1},
		{after: 91*day + time.Hour, server: 3, authority: 1, expired: 1},
	} {
		r.WarnOfExpiry(t.Context(), time.Now().Add(tt.after))
		warned := func(name string) int {
			return strings.Count(log.String(), "replace the file, the server reloads it\" file="+name)
		}
		if warned(f.cert) != tt.server || warned(f.ca) != tt.authority || strings.Count(log.String(), "has expired") != tt.expired {
			t.Errorf("after %v: %d and %d warnings, want %d and %d:\n%s", tt.after, warned(f.cert), warned(f.ca), tt.server, tt.authority, log)
		}
	}
	f.writePair(t, issue(t, "short", roots, time.Now().Add(3*time.Hour))) // valid for four hours, for three from now on
	if errs := r.Reload(t.Context()); len(errs) > 0 {
		t.Fatal(errs)
	}
	before := log.String()
	r.WarnOfExpiry(t.Context(), time.Now().Add(time.Hour))
	if log.String() != before {
		t.Errorf("a warning about half of a short validity:\n%s", strings.TrimPrefix(log.String(), before))
	}
	r.WarnOfExpiry(t.Context(), time.Now().Add(2*time.Hour))
	if !strings.Contains(log.String(), `subject="CN=short"`) || !strings.Contains(strings.TrimPrefix(log.String(), before), "expires soon") {
		t.Errorf("no warning about a quarter of a short validity:\n%s", log)
	}
}
