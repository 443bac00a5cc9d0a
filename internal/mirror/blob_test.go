package mirror_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

// TestBlobsResume proves that a download continues on a new connection, with and without ranges.
func TestBlobsResume(t *testing.T) {
	t.Parallel()
	content := []byte(strings.Repeat("0123456789", 50_000))
	d := digest.FromBytes(content)
	retries := int64(3)
	for name, ranges := range map[string]bool{"with ranges": true, "without": false} {
		var asked atomic.Int64
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			from := 0
			if v := r.Header.Get("Range"); v != "" && ranges {
				_, _ = fmt.Sscanf(v, "bytes=%d-", &from)
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(content)-1, len(content)))
			}
			w.Header().Set("Content-Length", fmt.Sprint(len(content)-from))
			if from > 0 {
				w.WriteHeader(http.StatusPartialContent)
			}
			if n := asked.Add(1); n < 3 {
				_, _ = w.Write(content[from:min(len(content), from+int(n)*150_000)])
				panic(http.ErrAbortHandler)
			}
			_, _ = w.Write(content[from:])
		}))
		g := open127(t, s.URL, func(r *pulp.Remote) { r.Connection.MaxRetries = &retries })
		body, err := g.Blob(t.Context(), d, int64(len(content)))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(body); err != nil || digest.FromBytes(got) != d || asked.Load() != 3 {
			t.Errorf("%s: %d bytes, %v, after %d requests", name, len(got), err, asked.Load())
		}
		_ = body.Close()
		s.Close()
	}
}

func TestWrongBlobs(t *testing.T) {
	t.Parallel()
	content := strings.Repeat("x", 10_000)
	d := digest.FromString(content)
	for name, sent := range map[string]string{"other": strings.Repeat("y", 10_000), "fewer": content[:9_000], "more": content + "x", "none": ""} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, sent) }))
		body, err := open127(t, s.URL).Blob(t.Context(), d, int64(len(content)))
		if err == nil {
			_, err = io.ReadAll(body)
			_ = body.Close()
		}
		if err == nil {
			t.Errorf("%s bytes: no error", name)
		}
		s.Close()
	}
}

// TestBlobsThatBreakWhileSkipping proves that connections of a remote without ranges count as retries when they break
// while the bytes that were read before are skipped.
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

// TestBlobsThatBreakAtTheEnd proves that a broken connection does not matter after the last byte.
func TestBlobsThatBreakAtTheEnd(t *testing.T) {
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

// TestBlobEndsWithContext proves that the end of the context ends a read.
func TestBlobEndsWithContext(t *testing.T) {
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
