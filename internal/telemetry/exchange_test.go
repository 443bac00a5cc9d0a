package telemetry_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/countersign/countersign/internal/telemetry"
)

// recorder is an observer that keeps the exchanges.
type recorder struct {
	mu     sync.Mutex
	active int
	ended  chan telemetry.Exchange
}

func (o *recorder) RequestStarted(string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.active++
}

func (o *recorder) RequestEnded(e telemetry.Exchange) {
	o.mu.Lock()
	o.active--
	o.mu.Unlock()
	o.ended <- e
}

// TestObserve verifies the exchange that each kind of response leads to, through a real server.
func TestObserve(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(file, []byte(strings.Repeat("x", 100_000)), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		method, body string
		handle       http.HandlerFunc
		status       int
		sent, read   int64
		route        string
	}{
		"no response of the handler": {handle: func(http.ResponseWriter, *http.Request) {}, status: 200},
		"body only":                  {handle: func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "12345") }, status: 200, sent: 5},
		"status": {handle: func(w http.ResponseWriter, r *http.Request) {
			telemetry.SetRoute(r.Context(), "/v2/{name}")
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusNotFound)
		}, status: 404, route: "/v2/{name}"},
		"file": {handle: func(w http.ResponseWriter, r *http.Request) {
			http.ServeFile(w, r, file)
		}, status: 200, sent: 100_000},
		"upload": {method: http.MethodPut, body: "the body", handle: func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.ReadAll(r.Body)
			w.WriteHeader(http.StatusCreated)
		}, status: 201, read: 8},
		"flush": {handle: func(w http.ResponseWriter, _ *http.Request) {
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Error(err)
			}
		}, status: 200},
		"aborted before the response": {handle: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, status: 499},
		"aborted within the response": {handle: func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusPartialContent)
			panic(http.ErrAbortHandler)
		}, status: 206},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := &recorder{ended: make(chan telemetry.Exchange, 1)}
			server := httptest.NewServer(telemetry.Observe(tt.handle, o))
			defer server.Close()
			method := tt.method
			if method == "" {
				method = http.MethodGet
			}
			request, err := http.NewRequestWithContext(t.Context(), method, server.URL, strings.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			if response, err := http.DefaultClient.Do(request); err == nil {
				_, _ = io.Copy(io.Discard, response.Body)
				_ = response.Body.Close()
			}
			e := <-o.ended
			if e.Method != method || e.Status != tt.status || e.Sent != tt.sent || e.Received != tt.read || e.Route != tt.route || e.Took <= 0 {
				t.Errorf("exchange %+v, want status %d, route %q, %d bytes received and %d sent", e, tt.status, tt.route, tt.read, tt.sent)
			}
			if o.active != 0 {
				t.Errorf("%d requests are active at the end", o.active)
			}
		})
	}
}

// TestObservePassesFilesOn verifies that the next writer gets a file itself, so that the kernel can send it.
func TestObservePassesFilesOn(t *testing.T) {
	t.Parallel()
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	next := &fileWriter{ResponseRecorder: httptest.NewRecorder()}
	handle := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		to, ok := w.(io.ReaderFrom)
		if !ok {
			t.Fatal("the writer has no ReadFrom")
		}
		if n, err := to.ReadFrom(file); n != 7 || err != nil {
			t.Errorf("ReadFrom = %d, %v", n, err)
		}
	})
	o := &recorder{ended: make(chan telemetry.Exchange, 1)}
	telemetry.Observe(handle, o).ServeHTTP(next, httptest.NewRequest(http.MethodGet, "/", nil))
	if next.src != file {
		t.Errorf("the next writer got %T", next.src)
	}
	if e := <-o.ended; e.Sent != 7 {
		t.Errorf("%d bytes were sent, want 7", e.Sent)
	}
}

type fileWriter struct {
	*httptest.ResponseRecorder
	src io.Reader
}

func (w *fileWriter) ReadFrom(src io.Reader) (int64, error) {
	w.src = src
	return 7, nil
}
