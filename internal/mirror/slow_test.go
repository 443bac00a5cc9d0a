package mirror_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/mirror"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/registryclient"
)

// TestSilentRemotes proves that sock_read_timeout and total_timeout end requests to a remote that sends nothing.
func TestSilentRemotes(t *testing.T) {
	t.Parallel()
	stop := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/blobs/") {
			_, _ = io.WriteString(w, "some")
			_ = http.NewResponseController(w).Flush()
		}
		<-stop
	}))
	defer s.Close()
	defer close(stop)
	brief := 0.1
	g := open127(t, s.URL, func(r *pulp.Remote) { r.Connection.SockReadTimeout = &brief })
	if _, err := g.Tags(t.Context()); err == nil {
		t.Error("no error for a remote that does not answer")
	}
	body, err := g.Blob(t.Context(), digest.FromString("x"), 100)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(body); err == nil {
		t.Error("no error for a remote that stops in the middle of a blob")
	}
	_ = body.Close()
	total := open127(t, s.URL, func(r *pulp.Remote) { r.Connection.TotalTimeout = &brief })
	if _, err := total.Tags(t.Context()); err == nil {
		t.Error("total_timeout has no effect")
	}
}

// TestSlowReaders proves that sock_read_timeout does not count the time between two reads.
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

// trickle sends the headers and then one byte every 5 ms, without end.
func trickle(w http.ResponseWriter, r *http.Request) {
	for r.Method != http.MethodHead && r.Context().Err() == nil {
		_, _ = io.WriteString(w, " ")
		_ = http.NewResponseController(w).Flush()
		select {
		case <-time.After(5 * time.Millisecond):
		case <-r.Context().Done():
		}
	}
}

// TestTricklingBodies proves that a body below the minimum rate ends a request with an error that names the rate, and
// without retries.
func TestTricklingBodies(t *testing.T) {
	t.Parallel()
	d := digest.FromString("x")
	s := httptest.NewServer(http.HandlerFunc(trickle))
	t.Cleanup(s.Close)
	pace := registryclient.Pace{BytesPerSecond: 1 << 20, Window: 200 * time.Millisecond}
	patient := ptr(3600.0)
	g := open(t, s.URL, mirror.Options{AllowPrivate: loopback, Pace: pace}, func(r *pulp.Remote) {
		r.Connection.MaxRetries, r.Connection.SockReadTimeout, r.Connection.TotalTimeout = ptr(int64(5)), patient, patient
		r.Sigstore = &s.URL
	})
	for name, ask := range map[string]func() error{
		"tags":      func() error { _, err := g.Tags(t.Context()); return err },
		"resolve":   func() error { _, _, err := g.Resolve(t.Context(), "a"); return err },
		"manifest":  func() error { _, err := g.Manifest(t.Context(), "a"); return err },
		"referrers": func() error { _, _, err := g.Referrers(t.Context(), d); return err },
		"extension": func() error { _, err := g.Signatures(t.Context(), mirror.Extension, d); return err },
		"lookaside": func() error { _, err := g.Signatures(t.Context(), mirror.Lookaside, d); return err },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := ask(); !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "bytes per second") {
				t.Error(err)
			}
		})
	}
}

// TestBlobTimeouts proves that Options.BlobTimeout and the total_timeout of the remote end a download above the
// minimum rate.
func TestBlobTimeouts(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(trickle))
	t.Cleanup(s.Close)
	anyPace := registryclient.Pace{Window: time.Minute}
	for name, c := range map[string]struct {
		total time.Duration
		edit  func(*pulp.Remote)
		says  string
	}{
		"BlobTimeout":   {total: 200 * time.Millisecond, edit: func(*pulp.Remote) {}, says: "took longer than 200ms"},
		"total_timeout": {total: time.Hour, edit: func(r *pulp.Remote) { r.Connection.TotalTimeout = ptr(0.2) }, says: "took longer than 200ms"},
		"total_timeout with retries": {
			total: 300 * time.Millisecond, says: "took longer than 300ms",
			edit: func(r *pulp.Remote) { r.Connection.TotalTimeout, r.Connection.MaxRetries = ptr(0.1), ptr(int64(10)) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := open(t, s.URL, mirror.Options{AllowPrivate: loopback, Pace: anyPace, BlobTimeout: c.total}, c.edit)
			body, err := g.Blob(t.Context(), digest.FromString("x"), 1<<30)
			if err == nil {
				_, err = io.Copy(io.Discard, body)
				_ = body.Close()
			}
			if !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %q in it", err, c.says)
			}
		})
	}
}

// TestTricklingHeaders proves that sock_read_timeout ends a request to a remote that sends its headers byte by byte.
func TestTricklingHeaders(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nX-Long: ")
				for err == nil {
					time.Sleep(5 * time.Millisecond)
					_, err = io.WriteString(c, "x")
				}
			}()
		}
	}()
	g := open127(t, "http://"+l.Addr().String(), func(r *pulp.Remote) { r.Connection.SockReadTimeout = ptr(0.2) })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for name, ask := range map[string]func() error{
		"tags":    func() error { _, err := g.Tags(ctx); return err },
		"resolve": func() error { _, _, err := g.Resolve(ctx, "a"); return err },
		"blob":    func() error { _, err := g.Blob(ctx, digest.FromString("x"), 2); return err },
	} {
		if err := ask(); !fault.Is(err, fault.Unavailable) || ctx.Err() != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTricklingBlobs proves that a blob below the minimum rate ends with an error and closes the connection.
func TestTricklingBlobs(t *testing.T) {
	t.Parallel()
	gone := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(gone)
		for r.Context().Err() == nil {
			_, _ = w.Write([]byte("x"))
			_ = http.NewResponseController(w).Flush()
			time.Sleep(5 * time.Millisecond)
		}
	}))
	t.Cleanup(server.Close)
	g := open(t, server.URL, mirror.Options{AllowPrivate: loopback, Pace: registryclient.Pace{BytesPerSecond: 1 << 20, Window: 200 * time.Millisecond}})
	body, err := g.Blob(t.Context(), digest.FromString("x"), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = io.Copy(io.Discard, body); !fault.Is(err, fault.Unavailable) {
		t.Errorf("got %v", err)
	}
	_ = body.Close()
	<-gone
}
