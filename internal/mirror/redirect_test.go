package mirror_test

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/mirror"
	"github.com/countersign/countersign/internal/pulp"
)

// TestRedirects proves that redirects to another host are followed without credentials, and not to private addresses.
func TestRedirects(t *testing.T) {
	t.Parallel()
	layer := strings.Repeat("layer", 1000)
	d := digest.FromString(layer)
	elsewhere := newWitness(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, layer) })
	var to atomic.Value
	to.Store(elsewhere.URL + "/x")
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, _, ok := r.BasicAuth(); !ok || user != "robot" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		http.Redirect(w, r, to.Load().(string), http.StatusTemporaryRedirect)
	}))
	defer s.Close()
	withHeaders := func(r *pulp.Remote) { r.Connection.Headers = []map[string]string{{"X-Token": secret}} }
	g := open127(t, s.URL, withHeaders)
	// Blobs may be on another host; it receives no credentials.
	body, err := g.Blob(t.Context(), d, int64(len(layer)))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(body); err != nil || string(got) != layer {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	_ = body.Close()
	elsewhere.check(t, true)
	// So may all other content.
	answers := newWitness(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"tags":["a"],"signatures":[]}`)
	})
	to.Store(answers.URL + "/x")
	all := map[string]func() error{
		"blob":       func() error { _, err := g.Blob(t.Context(), d, 1); return err },
		"tags":       func() error { _, err := g.Tags(t.Context()); return err },
		"head":       func() error { _, err := g.Head(t.Context(), "a"); return err },
		"manifest":   func() error { _, err := g.Manifest(t.Context(), "a"); return err },
		"signatures": func() error { _, err := g.Signatures(t.Context(), mirror.Extension, d); return err },
	}
	for name, ask := range all {
		if err := ask(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	answers.check(t, true)
	// Redirects to private addresses are refused.
	for _, private := range []string{"http://169.254.169.254/latest/meta-data", "http://10.0.0.1/", "http://[::ffff:192.168.0.1]/", "file:///etc/passwd", "gopher://127.0.0.1/"} {
		to.Store(private)
		for name, ask := range all {
			if err := ask(); err == nil {
				t.Errorf("%s: a redirect to %s is followed", name, private)
			}
		}
	}
}

// TestRefusedRedirects proves that redirects from https to http and endless redirects are refused, and that their
// URLs are not logged.
func TestRefusedRedirects(t *testing.T) {
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
	if _, err := g.Blob(t.Context(), digest.FromString("endless"), 1); !fault.Is(err, fault.Unavailable) || hops.Load() != 6 {
		t.Errorf("endless: %v after %d redirects", err, hops.Load())
	}
	other.check(t, false)
	if strings.Contains(lines.String(), secret) {
		t.Errorf("the log: %s", lines.String())
	}
}

// TestSecretsOfRedirects proves that the query of a redirect is neither in the error nor in the log.
func TestSecretsOfRedirects(t *testing.T) {
	t.Parallel()
	var location string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, location, http.StatusFound) }))
	defer s.Close()
	closed := httptest.NewServer(nil)
	location = closed.URL + "/x?X-Amz-Signature=" + secret
	closed.Close()
	var lines bytes.Buffer
	log := slog.New(slog.NewTextHandler(&lines, &slog.HandlerOptions{Level: slog.LevelDebug}))
	g := open(t, s.URL, mirror.Options{AllowPrivate: loopback, Log: log}, func(r *pulp.Remote) { r.Connection.MaxRetries = ptr(int64(1)) })
	_, err := g.Blob(t.Context(), digest.FromString("x"), 1)
	if err == nil || strings.Contains(err.Error(), secret) || !strings.Contains(lines.String(), "sent again") || strings.Contains(lines.String(), secret) {
		t.Errorf("%v; %s", err, lines.String())
	}
}
