package upstream_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
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

// distribution returns bare distribution as a handler.
func distribution(t *testing.T) http.Handler {
	t.Helper()
	config := &configuration.Configuration{Storage: configuration.Storage{
		"filesystem":  configuration.Parameters{"rootdirectory": t.TempDir()},
		"delete":      configuration.Parameters{"enabled": true},
		"maintenance": configuration.Parameters{"uploadpurging": map[any]any{"enabled": false}},
	}}
	config.HTTP.Secret = "test"
	config.Catalog.MaxEntries = 1000 // as where it reads a file
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
		"a deleted blob is gone, and may be deleted again", "an upload ends with its last bytes")
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

// TestPasswordFile changes the password there and in the file, in the middle of an upload too.
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
		t.Errorf("a start without the file: %v", err)
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

// An upstream that cannot now says when it can; what it says is bounded.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		status   int
		says     string
		from, to time.Duration
	}{
		{http.StatusTooManyRequests, "17", 17 * time.Second, 17 * time.Second},
		{http.StatusInsufficientStorage, "300", 5 * time.Minute, 5 * time.Minute},
		{http.StatusServiceUnavailable, "0", time.Second, time.Second},
		{http.StatusServiceUnavailable, "86400", 5 * time.Minute, 5 * time.Minute},
		{http.StatusServiceUnavailable, "99999999999999999999999", 5 * time.Minute, 5 * time.Minute},
		{http.StatusServiceUnavailable, time.Now().Add(2 * time.Minute).UTC().Format(http.TimeFormat), time.Second, 2 * time.Minute},
		{http.StatusServiceUnavailable, "Mon, 02 Jan 2006 15:04:05 GMT", time.Second, time.Second},
		{http.StatusServiceUnavailable, "-1", 0, 0},
		{http.StatusServiceUnavailable, "soon", 0, 0},
		{http.StatusServiceUnavailable, "", 0, 0},
		{http.StatusForbidden, "17", 0, 0}, // no sooner than ever
	} {
		s := open(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", tt.says)
			w.WriteHeader(tt.status)
		}), upstream.Options{})
		_, err := s.Create(t.Context(), "suite/one")
		if got := fault.RetryAfter(fmt.Errorf("kept: %w", err)); err == nil || got < tt.from || got > tt.to {
			t.Errorf("%d with Retry-After %q: %v, after %v, want %v to %v", tt.status, tt.says, err, got, tt.from, tt.to)
		}
	}
}

// A token service that cannot now is no refusal of credentials.
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

func TestNewRefusesBadURLs(t *testing.T) {
	t.Parallel()
	for _, u := range []string{"", "registry.example", "ftp://x", "http://user:secret@x", "http://x/path"} {
		if _, err := upstream.New(upstream.Options{URL: u}); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("New(%q) = %v", u, err)
		}
	}
}

// recorded notes the requests that pass.
func recorded(next http.Handler, into *[]string) http.Handler {
	var mu sync.Mutex
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		*into = append(*into, r.Method+" "+r.URL.Path)
		mu.Unlock()
		next.ServeHTTP(w, r)
	})
}

// TestNamesHaveAPrefixThere keeps everything under a prefix, in the same words as without.
func TestNamesHaveAPrefixThere(t *testing.T) {
	t.Parallel()
	in := func(t *testing.T) storage.Storage {
		return open(t, distribution(t), upstream.Options{Prefix: "company/"})
	}
	storagetest.Run(t, in)
	storagetest.RunManifests(t, in)
	var asked []string
	behind := distribution(t)
	s := open(t, recorded(behind, &asked), upstream.Options{Prefix: "company/deep/"})
	put(t, s, "team/app", []byte("bytes"))
	if err := s.Mount(t.Context(), "team/app", "team/other", digest.FromString("bytes")); err != nil {
		t.Fatal(err)
	}
	for _, r := range asked {
		if !strings.Contains(r, " /v2/company/deep/team/") {
			t.Errorf("it asked for %s", r)
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

// TestLists reads tags and names page by page, and nothing from other hosts.
func TestLists(t *testing.T) {
	t.Parallel()
	pages := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path + "?" + r.URL.RawQuery {
		case "/v2/company/app/tags/list?":
			w.Header().Set("Link", `</v2/company/app/tags/list?last=b>; rel="next"`)
			_, _ = io.WriteString(w, `{"tags":["a","b"]}`)
		case "/v2/company/app/tags/list?last=b":
			_, _ = io.WriteString(w, `{"tags":["c"]}`)
		case "/v2/company/elsewhere/tags/list?":
			w.Header().Set("Link", `<http://other.example/v2/x>; rel="next"`)
			_, _ = io.WriteString(w, `{"tags":["a"]}`)
		case "/v2/company/endless/tags/list?", "/v2/company/endless/tags/list?again":
			w.Header().Set("Link", `</v2/company/endless/tags/list?again>; rel=next`)
			_, _ = io.WriteString(w, `{"tags":["a"]}`)
		case "/v2/company/none/tags/list?":
			_, _ = io.WriteString(w, `{"tags":null}`)
		case "/v2/company/app/referrers/" + string(digest.FromString("image")) + "?":
			w.Header().Set("Link", `<?page=2>; rel="next"`)
			_, _ = io.WriteString(w, `{"manifests":[{"digest":"`+string(digest.FromString("one"))+`"}]}`)
		case "/v2/company/app/referrers/" + string(digest.FromString("image")) + "?page=2":
			_, _ = io.WriteString(w, `{"manifests":[{"digest":"`+string(digest.FromString("two"))+`"}]}`)
		case "/v2/company/app/referrers/" + string(digest.FromString("bad")) + "?":
			_, _ = io.WriteString(w, `{"manifests":[{"digest":"../../else"}]}`)
		case "/v2/_catalog?":
			_, _ = io.WriteString(w, `{"repositories":["company/app","companyother/app","else","company/deep/app"]}`)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
	s := open(t, pages, upstream.Options{Prefix: "company/"})
	if tags, err := s.Tags(t.Context(), "app"); err != nil || !slices.Equal(tags, []string{"a", "b", "c"}) {
		t.Errorf("Tags = %v, %v", tags, err)
	}
	if tags, err := s.Tags(t.Context(), "none"); err != nil || len(tags) != 0 {
		t.Errorf("Tags of an empty one = %v, %v", tags, err)
	}
	if _, err := s.Tags(t.Context(), "missing"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Tags of nothing = %v", err)
	}
	for _, name := range []string{"elsewhere", "endless"} {
		if _, err := s.Tags(t.Context(), name); !fault.IsOutage(err, fault.Upstream) {
			t.Errorf("Tags of %s = %v", name, err)
		}
	}
	found, err := s.Referrers(t.Context(), "app", digest.FromString("image"))
	if err != nil || !slices.Equal(found, []digest.Digest{digest.FromString("one"), digest.FromString("two")}) {
		t.Errorf("Referrers = %v, %v", found, err)
	}
	if _, err := s.Referrers(t.Context(), "app", digest.FromString("bad")); !fault.IsOutage(err, fault.Upstream) {
		t.Errorf("Referrers that are no digests = %v", err)
	}
	if _, err := s.Referrers(t.Context(), "app", digest.FromString("else")); !errors.Is(err, storage.ErrUnsupported) {
		t.Errorf("Referrers where none are listed = %v", err)
	}
	if names, err := s.Catalog(t.Context()); err != nil || !slices.Equal(names, []string{"app", "deep/app"}) {
		t.Errorf("Catalog = %v, %v", names, err)
	}
	for _, status := range []int{http.StatusNotFound, http.StatusUnauthorized, http.StatusForbidden, http.StatusMethodNotAllowed} {
		s := open(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }), upstream.Options{})
		if _, err := s.Catalog(t.Context()); !errors.Is(err, storage.ErrUnsupported) {
			t.Errorf("Catalog where that is %d = %v", status, err)
		}
	}
	s = open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token",service="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	}), upstream.Options{Username: "robot", Password: "secret"})
	if _, err := s.Catalog(t.Context()); !errors.Is(err, storage.ErrUnsupported) {
		t.Errorf("Catalog where the token service gives no token for it = %v", err)
	}
	if _, err := s.Tags(t.Context(), "app"); errors.Is(err, storage.ErrNotFound) || !fault.Is(err, fault.Unavailable) {
		t.Errorf("Tags where the token service gives no token = %v", err)
	}
}

// TestListsThatNeverEnd gives up on lists that are longer than anybody's.
func TestListsThatNeverEnd(t *testing.T) {
	t.Parallel()
	var page atomic.Int64
	for what, text := range map[string]string{
		"many tags":      `{"tags":["t"` + strings.Repeat(`,"t"`, 80) + `]}`,
		"empty pages":    `{"tags":[]}`,
		"large pages":    `{"tags":[]` + strings.Repeat(" ", 1000) + `}`,
		"one large page": `{"tags":[]` + strings.Repeat(" ", 1<<10) + `}`,
		"no JSON":        `{"tags":`,
		"other JSON":     `{"tags":{"a":1}}`,
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Link", fmt.Sprintf(`<%s?page=%d>; rel="next"`, r.URL.Path, page.Add(1)))
				_, _ = io.WriteString(w, text)
			}), upstream.Options{})
			upstream.ShortLists(s)
			if tags, err := s.Tags(t.Context(), "app"); !fault.IsOutage(err, fault.Upstream) || strings.Contains(err.Error(), "%!") {
				t.Errorf("Tags = %d of them, %v", len(tags), err)
			}
		})
	}
}

// TestResolve finds out what a tag stands for, also where the upstream does not say.
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
	for what, s := range map[string]*upstream.Storage{"distribution": s, "one that does not say": silent} {
		if d, err := s.Resolve(t.Context(), "suite/one", "v1"); err != nil || d != digest.FromBytes(manifest) {
			t.Errorf("%s: Resolve = %s, %v", what, d, err)
		}
	}
	if _, err := s.Resolve(t.Context(), "suite/one", "v2"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Resolve of nothing = %v", err)
	}
}

// TestAWholeBlobIsTwoRequests takes a blob that comes at once, and refuses other bytes than its digest's.
func TestAWholeBlobIsTwoRequests(t *testing.T) {
	t.Parallel()
	var asked []string
	s := open(t, recorded(distribution(t), &asked), upstream.Options{})
	put(t, s, "suite/one", []byte("bytes"))
	if len(asked) != 2 {
		t.Errorf("it asked %v", asked)
	}
	content, size, err := s.Open(t.Context(), "suite/one", digest.FromString("bytes"))
	if err != nil || size != 5 || len(asked) != 3 {
		t.Fatalf("Open = %d, %v after %v", size, err, asked)
	}
	defer func() { _ = content.Close() }()
	if _, err := content.Seek(2, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(content); err != nil || string(b) != "tes" {
		t.Errorf("read %q, %v", b, err)
	}
	u, err := s.Create(t.Context(), "suite/one")
	if err != nil {
		t.Fatal(err)
	}
	if err := u.(storage.Finisher).Finish(t.Context(), strings.NewReader("others"), digest.FromString("wrong")); !errors.Is(err, storage.ErrDigest) {
		t.Errorf("Finish with other bytes = %v", err)
	}
	if _, err := s.Stat(t.Context(), "suite/one", digest.FromString("wrong")); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Stat = %v", err)
	}
}

// TestLocate hands on where bytes are, and only what everybody may follow.
func TestLocate(t *testing.T) {
	t.Parallel()
	d := digest.FromString("bytes")
	for what, c := range map[string]struct{ to, want string }{
		"another host":              {"http://store.example/bytes?signature=x", "http://store.example/bytes?signature=x"},
		"the same host":             {"/elsewhere", ""},
		"one that wants a password": {"http://user:secret@store.example/bytes", ""},
		"no web":                    {"ftp://store.example/bytes", ""},
		"nowhere":                   {"", ""},
	} {
		s := open(t, basic(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", c.to)
			w.WriteHeader(http.StatusTemporaryRedirect)
		})), upstream.Options{Username: "robot", Password: "secret"})
		at, content, err := s.Locate(t.Context(), "suite/one", d, storage.Part{Size: 5, Last: 4})
		if at != c.want || content != nil || (err == nil) != (c.want != "") {
			t.Errorf("%s: Locate = %q, %v, %v, want %q", what, at, content, err, c.want)
		}
	}
	s := open(t, distribution(t), upstream.Options{})
	put(t, s, "suite/one", []byte("bytes"))
	at, content, err := s.Locate(t.Context(), "suite/one", d, storage.Part{Size: 5, Last: 4})
	if err != nil || at != "" || content == nil {
		t.Fatalf("Locate = %q, %v, %v", at, content, err)
	}
	defer func() { _ = content.Close() }()
	if b, err := io.ReadAll(content); err != nil || string(b) != "bytes" {
		t.Errorf("read %q, %v", b, err)
	}
	if at, content, err := s.Locate(t.Context(), "suite/one", digest.FromString("none"), storage.Part{Size: 5, Last: 4}); at != "" || content != nil || !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Locate of nothing = %q, %v, %v", at, content, err)
	}
}

// TestLocateFollowsWithinTheUpstream follows what stays on the upstream's host, with the credentials, in the one
// request that it makes.
func TestLocateFollowsWithinTheUpstream(t *testing.T) {
	t.Parallel()
	var asked []string
	s := open(t, recorded(basic(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/bytes":
			_, _ = io.WriteString(w, "bytes")
		default:
			http.Redirect(w, r, "/bytes", http.StatusFound)
		}
	})), &asked), upstream.Options{Username: "robot", Password: "secret"})
	if err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stat(t.Context(), "suite/one", digest.FromString("bytes")); err != nil { // learns that there is a password
		t.Fatal(err)
	}
	before := len(asked)
	at, content, err := s.Locate(t.Context(), "suite/one", digest.FromString("bytes"), storage.Part{Size: 5, Last: 4})
	if err != nil || at != "" {
		t.Fatalf("Locate = %q, %v", at, err)
	}
	defer func() { _ = content.Close() }()
	if b, err := io.ReadAll(content); err != nil || string(b) != "bytes" || len(asked)-before != 2 {
		t.Errorf("read %q, %v after %v", b, err, asked[before:])
	}
}

// TestPartsOfBlobs asks for no more than is wanted, and takes no other part for it.
func TestPartsOfBlobs(t *testing.T) {
	t.Parallel()
	whole := strings.Repeat("0123456789", 10)
	d := digest.FromString(whole)
	part := storage.Part{Size: 100, First: 20, Last: 29}
	answers := map[string]struct {
		answer http.HandlerFunc
		fails  bool
	}{
		"a part": {func(w http.ResponseWriter, r *http.Request) {
			if got := r.Header.Get("Range"); got != "bytes=20-29" {
				t.Errorf("it was asked for %q", got)
			}
			http.ServeContent(w, r, "", time.Time{}, strings.NewReader(whole))
		}, false},
		"all of it":      {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, whole) }, false},
		"less than that": {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, whole[:15]) }, true},
		"a part of no name": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusPartialContent)
			_, _ = io.WriteString(w, whole[20:30])
		}, false},
		"another part": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", "bytes 0-9/100")
			w.WriteHeader(http.StatusPartialContent)
			_, _ = io.WriteString(w, whole[:10])
		}, true},
		"a refusal": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusRequestedRangeNotSatisfiable) }, true},
	}
	for what, c := range answers {
		s := open(t, c.answer, upstream.Options{})
		content, err := s.OpenPart(t.Context(), "suite/one", d, part)
		if c.fails {
			if !fault.Is(err, fault.Unavailable) {
				t.Errorf("%s: OpenPart = %v, want Unavailable", what, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: OpenPart = %v", what, err)
			continue
		}
		got := make([]byte, 10)
		_, err = content.Seek(20, io.SeekStart)
		if _, err2 := io.ReadFull(content, got); err != nil || err2 != nil || string(got) != whole[20:30] {
			t.Errorf("%s: read %q, %v, %v", what, got, err, err2)
		}
		_ = content.Close()
	}
	s := open(t, distribution(t), upstream.Options{})
	put(t, s, "suite/one", []byte(whole))
	content, err := s.OpenPart(t.Context(), "suite/one", d, part)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = content.Close() }()
	if b, err := io.ReadAll(content); err != nil || string(b) != whole { // not what it was opened for
		t.Errorf("read %q, %v", b, err)
	}
}

// TestLengthsAreTold sends bodies of a known length with it, and others in chunks.
func TestLengthsAreTold(t *testing.T) {
	t.Parallel()
	var told []int64
	behind := distribution(t)
	s := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPatch || r.Method == http.MethodPut {
			told = append(told, r.ContentLength)
		}
		behind.ServeHTTP(w, r)
	}), upstream.Options{})
	for _, text := range []string{"", "bytes"} {
		for _, known := range []bool{true, false} {
			told = nil
			var from io.Reader = strings.NewReader(text)
			if !known {
				from = io.MultiReader(from)
			}
			u, err := s.Create(t.Context(), "suite/one")
			if err != nil {
				t.Fatal(err)
			}
			if n, err := u.ReadFrom(from); err != nil || n != int64(len(text)) {
				t.Errorf("ReadFrom = %d, %v", n, err)
			}
			if err := u.Commit(t.Context(), digest.FromString(text)); err != nil {
				t.Errorf("Commit = %v", err)
			}
			want := int64(len(text))
			if !known {
				want = -1
			}
			if len(told) != 2 || told[0] != want || told[1] != 0 {
				t.Errorf("%q, known %t: it told %v, want %d and 0", text, known, told, want)
			}
		}
	}
}

// TestWhoMayKnowThePassword tells a token service on another host the password only when it is named, and a fixed
// token goes to the upstream alone.
func TestWhoMayKnowThePassword(t *testing.T) {
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
		told.Store("nobody asked")
		s := open(t, guarded, upstream.Options{Username: "robot", Password: "secret", TokenHosts: hosts})
		if _, err := s.Tags(t.Context(), "suite/one"); err != nil || told.Load() != want {
			t.Errorf("with %v it was told %q, %v, want %q", hosts, told.Load(), err, want)
		}
	}
	told.Store("nobody asked")
	safe := httptest.NewTLSServer(guarded)
	t.Cleanup(safe.Close)
	s, err := upstream.New(upstream.Options{URL: safe.URL, InsecureSkipVerify: true, Username: "robot", Password: "secret", TokenHosts: []string{host}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Tags(t.Context(), "suite/one"); err != nil || told.Load() != "" {
		t.Errorf("without TLS, in front of an upstream that has it, it was told %q, %v", told.Load(), err)
	}
	told.Store("nobody asked")
	if _, err := open(t, guarded, upstream.Options{Token: "good"}).Tags(t.Context(), "suite/one"); err != nil {
		t.Errorf("with a fixed token: %v", err)
	}
	if _, err := open(t, guarded, upstream.Options{Token: "bad"}).Tags(t.Context(), "suite/one"); !fault.Is(err, fault.Unavailable) {
		t.Errorf("with a fixed token that is bad: %v", err)
	}
	if told.Load() != "nobody asked" {
		t.Error("the token service was asked")
	}
}
