package pace_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/countersign/countersign/internal/pace"
)

// own is a ResponseWriter that simulates the transfer of files by the kernel at a given rate. It respects the deadline.
type own struct {
	http.ResponseWriter
	rate  int // bytes a second
	burst int // bytes that are sent at once at the start
	due   time.Time
	got   bytes.Buffer
	calls int
	odd   []string // sources of ReadFrom that were not files
}

func (o *own) Header() http.Header                { return http.Header{} }
func (o *own) SetWriteDeadline(t time.Time) error { o.due = t; return nil }
func (o *own) SetReadDeadline(time.Time) error    { return nil }
func (o *own) ReadFrom(r io.Reader) (n int64, err error) {
	o.calls++
	l, _ := r.(*io.LimitedReader)
	if l == nil {
		o.odd = append(o.odd, fmt.Sprintf("%T", r))
		return 0, nil
	}
	if _, ok := l.R.(*os.File); !ok {
		o.odd = append(o.odd, fmt.Sprintf("%T", l.R))
	}
	if n, err = io.CopyN(&o.got, r, int64(o.burst)); err != nil {
		return n, nil //nolint:nilerr // the file's end
	}
	o.burst = 0
	for {
		if !time.Now().Before(o.due) {
			_, _ = io.CopyN(io.Discard, r, 100) // read and not sent, as a copy in user space may
			return n, os.ErrDeadlineExceeded
		}
		time.Sleep(time.Second)
		m, err := io.CopyN(&o.got, r, int64(o.rate))
		if n += m; err != nil {
			return n, nil //nolint:nilerr // the file's end
		}
	}
}

// TestFilesAreSentByTheKernel checks that the server's own ReadFrom receives a file in one call while the client is fast
// enough, that a slow transfer resumes at its offset, and that a transfer that is too slow is aborted.
func TestFilesAreSentByTheKernel(t *testing.T) {
	t.Parallel()
	content := make([]byte, 3_000_000)
	for i := range content {
		content[i] = byte(i % 251)
	}
	path := filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		burst, rate, calls, from, size int
		whole                          bool
		within                         time.Duration
	}{
		"fast":                  {rate: 1_000_000, calls: 1, size: 3_000_000, whole: true, within: 10 * time.Second},
		"a part":                {rate: 1_000_000, calls: 1, from: 1000, size: 2_000_000, whole: true, within: 10 * time.Second},
		"slow":                  {rate: 5_000, calls: 40, from: 1000, size: 2_999_000, whole: true, within: 10 * time.Minute}, // 600 s, interrupted every 15
		"slower than it may":    {rate: 500, calls: 8, size: 3_000_000, within: 2 * time.Minute},
		"a full buffer, a stop": {burst: 2_000_000, calls: 9, size: 3_000_000, within: 135 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			file, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = file.Close() }()
			if _, err := file.Seek(int64(tt.from), io.SeekStart); err != nil {
				t.Fatal(err)
			}
			o := &own{rate: tt.rate, burst: tt.burst}
			began := time.Now()
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
			if err != nil {
				t.Fatal(err)
			}
			var n int64
			pace.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				n, err = io.CopyN(w, file, int64(tt.size)) // as http.ServeContent does
			}), pace.Options{}).ServeHTTP(o, r)
			if took := time.Since(began); took > tt.within+time.Second {
				t.Errorf("%s: it took %v", name, took)
			}
			if o.calls != tt.calls || len(o.odd) > 0 {
				t.Errorf("%s: %d calls of ReadFrom, want %d; no files: %v", name, o.calls, tt.calls, o.odd)
			}
			if tt.whole &&
				(err != nil || n != int64(tt.size) || !bytes.Equal(o.got.Bytes(), content[tt.from:tt.from+tt.size])) {
				t.Errorf("%s: %d bytes, %v", name, n, err)
			}
			if !tt.whole && (!errors.Is(err, os.ErrDeadlineExceeded) || n >= int64(tt.size)) {
				t.Errorf("%s: %d bytes, %v, want an end by the deadline", name, n, err)
			}
		})
	}
}

// TestOverRealConnections checks that files, range requests and bodies are transferred correctly over TCP, TLS and HTTP/2,
// and that stalled bodies and stalled readers are aborted there too.
func TestOverRealConnections(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	path := filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	h := pace.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/file":
			http.ServeFile(w, r, path)
		case "/endless":
			var err error
			for err == nil {
				_, err = w.Write(content)
			}
			ended <- err
		default:
			echo.ServeHTTP(w, r)
		}
	}), pace.Options{BodyWindow: 500 * time.Millisecond, ResponseWindow: time.Second, Drain: 500 * time.Millisecond})
	for _, kind := range []string{"HTTP/1.1", "TLS", "HTTP/2.0"} {
		server, client := start(t, h, kind)
		for range 2 {
			res := do(t, client, http.MethodGet, server+"/file", nil)
			if !bytes.Equal(res.body, content) || kind != "TLS" && res.proto != kind {
				t.Errorf("%s: %s, %d bytes", kind, res.proto, len(res.body))
			}
		}
		if res := do(t, client, http.MethodPut, server+"/", bytes.NewReader(content)); string(
			res.body,
		) != fmt.Sprint(
			len(content),
		) {
			t.Errorf("%s: a body: %s", kind, res.body)
		}
		body, end := io.Pipe()
		go func() { _, _ = end.Write([]byte("abc")) }()
		if res := do(t, client, http.MethodPut, server+"/", body); string(res.body) != "too slow\n" {
			t.Errorf("%s: a stalled body: %d %s", kind, res.status, res.body)
		}
		_ = body.Close()

		ctx, cancel := context.WithCancel(t.Context())
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, server+"/endless", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-ended:
		case <-time.After(time.Minute):
			t.Errorf("%s: a client that reads nothing is still connected", kind)
		}
		cancel()
		_ = res.Body.Close()
	}
}

type result struct {
	proto  string
	status int
	body   []byte
}

func do(t *testing.T, client *http.Client, method, url string, body io.Reader) result {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	res, err := client.Do(r)
	if err != nil {
		t.Error(err)
		return result{}
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Error(err)
	}
	return result{proto: res.Proto, status: res.StatusCode, body: b}
}

// start runs a server with a kind of connection and returns its URL and a client.
func start(t *testing.T, h http.Handler, kind string) (string, *http.Client) {
	t.Helper()
	s := newServer(h)
	switch kind {
	case "HTTP/2.0":
		s.EnableHTTP2 = true
		s.StartTLS()
	case "TLS":
		s.StartTLS()
	default:
		s.Start()
	}
	t.Cleanup(s.Close)
	if !strings.HasPrefix(s.URL, "http") {
		t.Fatal(s.URL)
	}
	return s.URL, s.Client()
}

func newServer(h http.Handler) *httptest.Server {
	s := httptest.NewUnstartedServer(h)
	s.Config.IdleTimeout = time.Minute
	return s
}
