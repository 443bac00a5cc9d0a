package upstream_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

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

// distribution returns distribution as a handler.
func distribution(t *testing.T) http.Handler {
	t.Helper()
	config := &configuration.Configuration{Storage: configuration.Storage{
		"filesystem":  configuration.Parameters{"rootdirectory": t.TempDir()},
		"delete":      configuration.Parameters{"enabled": true},
		"maintenance": configuration.Parameters{"uploadpurging": map[any]any{"enabled": false}},
	}}
	config.HTTP.Secret = "test"
	config.Catalog.MaxEntries = 1000 // the default of its configuration file
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

// TestResumeOfAnEmptyUpload proves that an upload without bytes can be resumed.
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
	storagetest.Run(t, in, // it accepts one chunk, has no status of uploads, and answers 500 to a second delete
		"a blob may be written in many pieces", "a wrong digest stores nothing", "an upload is resumed at its end",
		"an upload with fewer bytes is not resumed", "a canceled upload is gone",
		"a deleted blob is gone, and may be deleted again", "Finish appends the last bytes")
}

// TestHostileUpstreams proves that invalid responses are Unavailable, and that other hosts get no requests.
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
		"an upload without a location": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) },
		"overload":                     func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) },
		"a broken server":              func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) },
		"a closed connection":          func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
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
			t.Error("another host got a request")
		}
	})
}

// TestRetryAfter proves that errors have the wait of the Retry-After header, within bounds.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	const unavailable = http.StatusServiceUnavailable
	for _, tt := range []struct {
		status      int
		says        string
		least, most time.Duration // both 0: no wait
	}{
		{status: http.StatusTooManyRequests, says: "17", least: 17 * time.Second, most: 17 * time.Second},
		{status: http.StatusInsufficientStorage, says: "300", least: 5 * time.Minute, most: 5 * time.Minute},
		{status: unavailable, says: "0", least: time.Second, most: time.Second},
		{status: unavailable, says: "86400", least: 5 * time.Minute, most: 5 * time.Minute},
		{status: unavailable, says: "99999999999999999999999", least: 5 * time.Minute, most: 5 * time.Minute},
		{status: unavailable, says: time.Now().Add(2 * time.Minute).UTC().Format(http.TimeFormat), least: time.Second, most: 2 * time.Minute},
		{status: unavailable, says: "Mon, 02 Jan 2006 15:04:05 GMT", least: time.Second, most: time.Second},
		{status: unavailable, says: "-1"},
		{status: unavailable, says: "soon"},
		{status: unavailable, says: ""},
		{status: http.StatusForbidden, says: "17"}, // a retry does not help
	} {
		s := open(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", tt.says)
			w.WriteHeader(tt.status)
		}), upstream.Options{})
		_, err := s.Create(t.Context(), "suite/one")
		if got := fault.RetryAfter(fmt.Errorf("wrapped: %w", err)); err == nil || got < tt.least || got > tt.most {
			t.Errorf("%d with Retry-After %q: %v, wait %v, want %v to %v", tt.status, tt.says, err, got, tt.least, tt.most)
		}
	}
}

func TestNewRefusesBadURLs(t *testing.T) {
	t.Parallel()
	for _, u := range []string{"", "registry.example", "ftp://x", "http://user:secret@x", "http://x/path"} {
		if _, err := upstream.New(upstream.Options{URL: u}); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("New(%q) = %v", u, err)
		}
	}
}

// recorded records the method and the path of each request.
func recorded(next http.Handler, into *[]string) http.Handler {
	var mu sync.Mutex
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		*into = append(*into, r.Method+" "+r.URL.Path)
		mu.Unlock()
		next.ServeHTTP(w, r)
	})
}

// TestPrefix runs the suite with a prefix and proves that all requests have it.
func TestPrefix(t *testing.T) {
	t.Parallel()
	in := func(t *testing.T) storage.Storage {
		return open(t, distribution(t), upstream.Options{Prefix: "company/"})
	}
	storagetest.Run(t, in)
	storagetest.RunManifests(t, in)
	var asked []string
	s := open(t, recorded(distribution(t), &asked), upstream.Options{Prefix: "company/deep/"})
	put(t, s, "team/app", []byte("bytes"))
	if err := s.Mount(t.Context(), "team/app", "team/other", digest.FromString("bytes")); err != nil {
		t.Fatal(err)
	}
	for _, r := range asked {
		if !strings.Contains(r, " /v2/company/deep/team/") {
			t.Errorf("request without the prefix: %s", r)
		}
	}
}

func put(t *testing.T, s *upstream.Storage, name string, b []byte) {
	t.Helper()
	u, err := s.Create(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if err := u.(storage.Finisher).Finish(t.Context(), bytes.NewReader(b), digest.FromBytes(b)); err != nil {
		t.Fatal(err)
	}
}

// TestResolve proves that the digest of a tag is found even if the response to HEAD does not contain it.
func TestResolve(t *testing.T) {
	t.Parallel()
	s := open(t, distribution(t), upstream.Options{})
	manifest := []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`)
	if err := s.PutManifest(t.Context(), "suite/one", "v1", "application/vnd.oci.image.index.v1+json", manifest); err != nil {
		t.Fatal(err)
	}
	silent := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			_, _ = w.Write(manifest)
		}
	}), upstream.Options{})
	for name, s := range map[string]*upstream.Storage{"distribution": s, "without a digest in the response": silent} {
		if d, err := s.Resolve(t.Context(), "suite/one", "v1"); err != nil || d != digest.FromBytes(manifest) {
			t.Errorf("%s: Resolve = %s, %v", name, d, err)
		}
	}
	if _, err := s.Resolve(t.Context(), "suite/one", "v2"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Resolve of an unknown tag = %v", err)
	}
}
