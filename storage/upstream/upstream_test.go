package upstream_test

import (
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/storage"
	"github.com/countersign/countersign/storage/storagetest"
	"github.com/countersign/countersign/storage/upstream"
)

func TestMain(m *testing.M) {
	logrus.SetOutput(io.Discard)
	m.Run()
}

// distribution returns bare distribution as a handler.
func distribution(t *testing.T) http.Handler {
	t.Helper()
	config := &configuration.Configuration{Storage: configuration.Storage{
		"filesystem":  configuration.Parameters{"rootdirectory": t.TempDir()},
		"delete":      configuration.Parameters{"enabled": true},
		"maintenance": configuration.Parameters{"uploadpurging": map[any]any{"enabled": false}},
	}}
	config.HTTP.Secret = "test"
	return handlers.NewApp(t.Context(), config)
}

func open(t *testing.T, h http.Handler, o upstream.Options) *upstream.Storage {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	o.URL = server.URL
	s, err := upstream.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestDistribution(t *testing.T) {
	t.Parallel()
	in := func(t *testing.T) storage.Storage { return open(t, distribution(t), upstream.Options{}) }
	storagetest.Run(t, in)
	storagetest.RunManifests(t, in)
}

func TestResumeOfAnEmptyUpload(t *testing.T) {
	t.Parallel()
	s := open(t, distribution(t), upstream.Options{})
	u, err := s.Create(t.Context(), "suite/one")
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.Resume(t.Context(), "suite/one", u.Ref(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := again.ReadFrom(strings.NewReader("bytes")); err != nil || n != 5 {
		t.Fatalf("ReadFrom = %d, %v", n, err)
	}
	if err := again.Commit(t.Context(), digest.FromString("bytes")); err != nil {
		t.Errorf("Commit = %v", err)
	}
}

func TestGoContainerRegistry(t *testing.T) {
	t.Parallel()
	in := func(t *testing.T) storage.Storage {
		return open(t, registry.New(registry.Logger(log.New(io.Discard, "", 0))), upstream.Options{})
	}
	storagetest.RunManifests(t, in)
	storagetest.Run(t, in, // it takes one chunk, tells nothing of an upload, and answers 500 to a second delete
		"a blob may come in many pieces", "a wrong digest keeps nothing", "an upload is taken up where it was left",
		"an upload with fewer bytes is not taken up", "a canceled upload is gone",
		"a deleted blob is gone, and may be deleted again")
}

// basic asks for a name and a password.
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

// bearer asks for a token of exactly the scope that a request needs, from a token service of its own.
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
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+tokens.URL+`/token",service="x",scope="whatever"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

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

func TestHostileUpstreams(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	t.Cleanup(elsewhere.Close)
	answers := map[string]http.HandlerFunc{
		"an upload on another host": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", elsewhere.URL+"/v2/suite/one/blobs/uploads/1")
			w.WriteHeader(http.StatusAccepted)
		},
		"an upload without a place": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) },
		"overload":                  func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) },
		"a broken server":           func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) },
		"a hang-up":                 func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	}
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, answer, upstream.Options{Username: "robot", Password: "secret"})
			if _, err := s.Create(t.Context(), "suite/one"); !fault.Is(err, fault.Unavailable) {
				t.Errorf("Create = %v, want Unavailable", err)
			}
		})
	}
	t.Run("other bytes for a digest", func(t *testing.T) {
		t.Parallel()
		s := open(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{}")) }), upstream.Options{})
		if _, _, err := s.GetManifest(t.Context(), "suite/one", string(digest.FromString("other"))); !fault.Is(err, fault.Unavailable) {
			t.Errorf("GetManifest = %v, want Unavailable", err)
		}
	})
	t.Run("an endless manifest", func(t *testing.T) {
		t.Parallel()
		s := open(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for range 100 {
				_, _ = w.Write(make([]byte, 1<<20))
			}
		}), upstream.Options{})
		if _, _, err := s.GetManifest(t.Context(), "suite/one", "v1"); !fault.Is(err, fault.TooLarge) {
			t.Errorf("GetManifest = %v, want TooLarge", err)
		}
	})
	t.Cleanup(func() {
		if asked.Load() != 0 {
			t.Error("another host was asked")
		}
	})
}

func TestNewRefusesBadURLs(t *testing.T) {
	t.Parallel()
	for _, u := range []string{"", "registry.example", "ftp://x", "http://user:secret@x", "http://x/path"} {
		if _, err := upstream.New(upstream.Options{URL: u}); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("New(%q) = %v", u, err)
		}
	}
}
