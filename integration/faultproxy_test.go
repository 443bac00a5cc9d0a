package integration

import (
	"bytes"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/integration/process"
)

// faultProxy is a proxy between Countersign and its upstream. It injects the faults of networks and overloaded
// registries.
type faultProxy struct {
	address string
	pass    http.Handler

	mu     sync.Mutex
	rule   rule
	healed chan struct{} // closed by heal: ends requests that hang
	server *http.Server  // nil while connections are refused
}

// rule returns the fault for a request; nil forwards the request.
type rule func(r *http.Request) http.HandlerFunc

func newFaultProxy(t *testing.T, p *upstreamPeer) *faultProxy {
	t.Helper()
	address, err := process.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	target := &url.URL{Scheme: "http", Host: p.address}
	f := &faultProxy{address: address, healed: make(chan struct{})}
	f.pass = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // so that the Location of uploads is that of the proxy
		},
		FlushInterval: -1,
		ErrorHandler:  func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
		ErrorLog:      log.New(io.Discard, "", 0),
	}
	f.listen(t)
	t.Cleanup(func() {
		f.heal(nil)
		f.refuse()
	})
	return f
}

// inFront starts Countersign with the proxy as its upstream.
func (f *faultProxy) inFront(t *testing.T, env ...string) *server {
	t.Helper()
	return startServer(t, append([]string{"COUNTERSIGN_UPSTREAM_URL=http://" + f.address}, env...)...)
}

func (f *faultProxy) listen(t *testing.T) {
	t.Helper()
	listener, err := net.Listen("tcp", f.address)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: f, ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0)}
	f.mu.Lock()
	f.server = server
	f.mu.Unlock()
	go func() { _ = server.Serve(listener) }() // returns after Close
}

// refuse closes all connections and accepts no new ones.
func (f *faultProxy) refuse() {
	f.mu.Lock()
	server := f.server
	f.server = nil
	f.mu.Unlock()
	if server != nil {
		_ = server.Close() // errors of open connections are expected
	}
}

// set replaces the rule.
func (f *faultProxy) set(r rule) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rule = r
}

// heal forwards all requests again, ends requests that hang, and accepts connections. t is nil at the end of a test.
func (f *faultProxy) heal(t *testing.T) {
	f.mu.Lock()
	f.rule = nil
	close(f.healed)
	f.healed = make(chan struct{})
	gone := f.server == nil
	f.mu.Unlock()
	if gone && t != nil {
		f.listen(t)
	}
}

// ServeHTTP implements http.Handler.
func (f *faultProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	chosen := f.rule
	f.mu.Unlock()
	if chosen != nil {
		if do := chosen(r); do != nil {
			do(w, r)
			return
		}
	}
	f.pass.ServeHTTP(w, r)
}

// always applies a fault to all requests.
func always(do http.HandlerFunc) rule { return func(*http.Request) http.HandlerFunc { return do } }

// when applies a fault to some requests.
func when(which func(*http.Request) bool, do http.HandlerFunc) rule {
	return func(r *http.Request) http.HandlerFunc {
		if which(r) {
			return do
		}
		return nil
	}
}

// once applies a fault to the first matching request, and reports it.
func once(which func(*http.Request) bool, do http.HandlerFunc) (rule, <-chan struct{}) {
	var first sync.Once
	met := make(chan struct{})
	return func(r *http.Request) (chosen http.HandlerFunc) {
		if which(r) {
			first.Do(func() { chosen = func(w http.ResponseWriter, r *http.Request) { defer close(met); do(w, r) } })
		}
		return chosen
	}, met
}

// says answers with a status, like an overloaded or full registry.
func says(status int, retryAfter string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if retryAfter != "" {
			w.Header().Set("Retry-After", retryAfter)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, `{"errors":[{"code":"UNKNOWN","message":"at /srv/registry on 127.0.0.1"}]}`)
	}
}

// hang neither reads nor answers until the proxy is healed.
func (f *faultProxy) hang(_ http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	healed := f.healed
	f.mu.Unlock()
	select {
	case <-healed:
	case <-r.Context().Done():
	}
	panic(http.ErrAbortHandler)
}

// slow delays a request.
func (f *faultProxy) slow(wait time.Duration) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(wait):
			f.pass.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	}
}

// answerLost forwards a request and loses its answer: done is closed after the upstream has answered, and the client
// gets nothing until the proxy is healed.
func (f *faultProxy) answerLost(done chan<- struct{}) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		f.pass.ServeHTTP(&deaf{header: http.Header{}}, r)
		close(done)
		f.hang(w, r)
	}
}

// deaf discards an answer.
type deaf struct{ header http.Header }

func (d *deaf) Header() http.Header       { return d.header }
func (*deaf) Write(b []byte) (int, error) { return len(b), nil }
func (*deaf) WriteHeader(int)             {}

// late closes the connection of a request, and forwards the request when arrive is closed; then it closes arrived.
func (f *faultProxy) late(t *testing.T, arrive <-chan struct{}, arrived chan<- struct{}) http.HandlerFunc {
	return func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("a request that was to arrive late: %v", err)
		}
		again := r.Clone(t.Context())
		again.Body = io.NopCloser(bytes.NewReader(body))
		go func() {
			defer close(arrived)
			select {
			case <-arrive:
				f.pass.ServeHTTP(&deaf{header: http.Header{}}, again)
			case <-t.Context().Done():
			}
		}()
		panic(http.ErrAbortHandler)
	}
}

// cutAnswer forwards a number of bytes of an answer's body and closes the connection.
func (f *faultProxy) cutAnswer(after int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { f.pass.ServeHTTP(&scissors{w, after}, r) }
}

type scissors struct {
	http.ResponseWriter
	left int
}

// Write implements io.Writer.
func (s *scissors) Write(b []byte) (int, error) {
	if len(b) <= s.left {
		s.left -= len(b)
		return s.ResponseWriter.Write(b)
	}
	_, _ = s.ResponseWriter.Write(b[:s.left])
	s.Flush()
	return 0, errors.New("cut")
}

// Flush implements http.Flusher.
func (s *scissors) Flush() { _ = http.NewResponseController(s.ResponseWriter).Flush() }

// stallAnswer forwards a number of bytes of an answer's body, and then nothing until the proxy is healed.
func (f *faultProxy) stallAnswer(after int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		defer f.hang(w, r)
		defer func() { _ = recover() }() // of http.ErrAbortHandler
		f.pass.ServeHTTP(&scissors{w, after}, r)
	}
}

// cutRequest forwards a number of bytes of a request's body and closes both connections.
func (f *faultProxy) cutRequest(after int64) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = io.NopCloser(io.MultiReader(io.LimitReader(r.Body, after), failing{}))
		f.pass.ServeHTTP(w, r)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("cut") }

// Kinds of requests to the upstream.

func isUpload(r *http.Request) bool { return strings.Contains(r.URL.Path, "/blobs/uploads/") }

func isBlob(r *http.Request) bool {
	return strings.Contains(r.URL.Path, "/blobs/sha256:") && (r.Method == http.MethodGet || r.Method == http.MethodHead)
}

func isBlobCommit(r *http.Request) bool { return isUpload(r) && r.Method == http.MethodPut }

func isManifestPut(r *http.Request) bool {
	return r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/sha256:")
}

// isTagPut matches the write of a tag by the outbox.
func isTagPut(r *http.Request) bool {
	return r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/") && !isManifestPut(r)
}
