package mirror_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/mirror"
	"github.com/countersign/countersign/internal/pulp"
)

// TestRetries proves that max_retries bounds the attempts, and that a long Retry-After ends them.
func TestRetries(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	answer := func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) <= 2 {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		_, _ = io.WriteString(w, `{"tags":["a"]}`)
	}
	s := httptest.NewServer(http.HandlerFunc(answer))
	defer s.Close()
	few := func(n int64) func(*pulp.Remote) { return func(r *pulp.Remote) { r.Connection.MaxRetries = &n } }
	if tags, err := open127(t, s.URL, few(2)).Tags(t.Context()); err != nil || len(tags) != 1 || asked.Load() != 3 {
		t.Errorf("%v, %v after %d requests", tags, err, asked.Load())
	}
	asked.Store(0)
	if _, err := open127(t, s.URL, few(1)).Tags(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "429, message='Too Many Requests'") || asked.Load() != 2 {
		t.Errorf("%v after %d requests", err, asked.Load())
	}
	// The longest wait of a Retry-After, and a context that ends during a wait.
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer slow.Close()
	if _, err := open127(t, slow.URL, few(3)).Tags(t.Context()); err == nil {
		t.Error("the request waits for an hour")
	}
	patient := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "100")
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer patient.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := open127(t, patient.URL, few(3)).Tags(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want the caller's deadline", err)
	}
}

func TestEndlessResponsesAreBounded(t *testing.T) {
	t.Parallel()
	var most atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/token") {
			most.Store(max(most.Load(), endless(w, strings.Repeat(" ", 64<<10))))
			return
		}
		most.Store(max(most.Load(), endless(w, strings.Repeat(" ", 64<<10))))
	}))
	defer s.Close()
	g := open127(t, s.URL)
	d := digest.FromString("x")
	for name, ask := range map[string]func() error{
		"tags":       func() error { _, err := g.Tags(t.Context()); return err },
		"manifest":   func() error { _, err := g.Manifest(t.Context(), "a"); return err },
		"signatures": func() error { _, err := g.Signatures(t.Context(), mirror.Extension, d); return err },
		"blob": func() error {
			body, err := g.Blob(t.Context(), d, 100)
			if err != nil {
				return err
			}
			defer func() { _ = body.Close() }()
			_, err = io.Copy(io.Discard, body)
			return err
		},
	} {
		if err := ask(); err == nil {
			t.Errorf("%s: no error for an endless response", name)
		}
	}
	if most.Load() > 64<<20 {
		t.Errorf("%d bytes were read", most.Load())
	}
}

// TestBrokenBodiesAreRetried proves that a list whose body breaks off is requested again.
func TestBrokenBodiesAreRetried(t *testing.T) {
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
