package upstream_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/storage"
	"github.com/countersign/countersign/storage/storagetest"
	"github.com/countersign/countersign/storage/upstream"
)

// basic requires the user robot with the password secret.
func basic(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "robot" || password != "secret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// bearer requires a token with the scope of the request, from a token service on another host.
func bearer(t *testing.T, next http.Handler) http.Handler {
	t.Helper()
	tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "" || password != "" {
			t.Errorf("the password of %s was sent to another host", user)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"token": strings.Join(r.URL.Query()["scope"], "|"), "expires_in": 300})
	}))
	t.Cleanup(tokens.Close)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		reads := r.Method == http.MethodGet || r.Method == http.MethodHead
		if !strings.HasPrefix(got, "repository:suite/") || !reads && !strings.Contains(got, "push") {
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+tokens.URL+`/token",service="x",scope="other"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// TestCredentials runs the suite with Basic authentication and with tokens, and proves that errors do not contain the
// password.
func TestCredentials(t *testing.T) {
	t.Parallel()
	guards := map[string]func(*testing.T, http.Handler) http.Handler{
		"Basic":  func(_ *testing.T, h http.Handler) http.Handler { return basic(h) },
		"Bearer": bearer,
	}
	for name, guard := range guards {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storagetest.Run(t, func(t *testing.T) storage.Storage {
				return open(t, guard(t, distribution(t)), upstream.Options{Username: "robot", Password: "secret"})
			})
		})
	}
	s := open(t, basic(distribution(t)), upstream.Options{Username: "robot", Password: "wrong"})
	if _, err := s.Stat(t.Context(), "suite/one", digest.FromString("x")); !fault.Is(err, fault.Unavailable) || strings.Contains(err.Error(), "wrong") {
		t.Errorf("Stat with a wrong password = %v, want Unavailable without the password", err)
	}
}

// TestPasswordFile proves that a password that changes during an upload is read again from the file.
func TestPasswordFile(t *testing.T) {
	t.Parallel()
	var wanted atomic.Value
	file := filepath.Join(t.TempDir(), "password")
	change := func(password, ending string) {
		t.Helper()
		wanted.Store(password)
		if err := os.WriteFile(file, []byte(password+ending), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	change("first", "\nand a remark")
	next := distribution(t)
	s := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "robot" || password != wanted.Load() {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	}), upstream.Options{Username: "robot", PasswordFile: file})
	u, err := s.Create(t.Context(), "suite/one")
	if err != nil {
		t.Fatal(err)
	}
	change("second", "\r\n")
	if _, err := u.ReadFrom(strings.NewReader("bytes")); err != nil {
		t.Fatal(err)
	}
	change("third", "")
	if err := u.Commit(t.Context(), digest.FromString("bytes")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stat(t.Context(), "suite/one", digest.FromString("bytes")); !fault.Is(err, fault.Unavailable) {
		t.Errorf("Stat without the file = %v, want Unavailable", err)
	}
	if _, err := upstream.New(upstream.Options{URL: "http://localhost", Username: "robot", PasswordFile: file}); err == nil || !strings.Contains(err.Error(), "upstream.password_file") {
		t.Errorf("New without the file = %v, want an error that names the setting", err)
	}
}

// TestTokenServiceIsBusy proves that a token service that is overloaded is an outage, not a refusal of the
// credentials.
func TestTokenServiceIsBusy(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable} {
		s := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/token" {
				w.WriteHeader(status)
				return
			}
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token",service="busy"`)
			w.WriteHeader(http.StatusUnauthorized)
		}), upstream.Options{Username: "robot", Password: "secret"})
		if _, err := s.Create(t.Context(), "suite/one"); !fault.IsOutage(err, fault.Upstream) {
			t.Errorf("Create with a token service that answers %d = %v, want an outage", status, err)
		}
	}
}

// TestTokenHosts proves that a token service on another host receives the password only if it is named, and that a
// fixed token goes to the upstream only.
func TestTokenHosts(t *testing.T) {
	t.Parallel()
	var told atomic.Value
	tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, _, _ := r.BasicAuth()
		told.Store(user)
		_, _ = io.WriteString(w, `{"token":"good"}`)
	}))
	t.Cleanup(tokens.Close)
	guarded := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer good" {
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+tokens.URL+`/token",service="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = io.WriteString(w, `{"tags":["a"]}`)
	})
	host := strings.TrimPrefix(tokens.URL, "http://")
	for want, hosts := range map[string][]string{"": {"other.example"}, "robot": {"other.example", host}} {
		told.Store("no request")
		s := open(t, guarded, upstream.Options{Username: "robot", Password: "secret", TokenHosts: hosts})
		if _, err := s.Tags(t.Context(), "suite/one"); err != nil || told.Load() != want {
			t.Errorf("with %v the token service gets the user %q, %v, want %q", hosts, told.Load(), err, want)
		}
	}
	told.Store("no request")
	safe := httptest.NewTLSServer(guarded)
	t.Cleanup(safe.Close)
	s, err := upstream.New(upstream.Options{URL: safe.URL, InsecureSkipVerify: true, Username: "robot", Password: "secret", TokenHosts: []string{host}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Tags(t.Context(), "suite/one"); err != nil || told.Load() != "" {
		t.Errorf("a token service without TLS of an upstream with TLS gets the user %q, %v", told.Load(), err)
	}
	told.Store("no request")
	if _, err := open(t, guarded, upstream.Options{Token: "good"}).Tags(t.Context(), "suite/one"); err != nil {
		t.Errorf("with a fixed token: %v", err)
	}
	if _, err := open(t, guarded, upstream.Options{Token: "bad"}).Tags(t.Context(), "suite/one"); !fault.Is(err, fault.Unavailable) {
		t.Errorf("with a fixed token that is bad: %v", err)
	}
	if told.Load() != "no request" {
		t.Error("the token service got a request")
	}
}
