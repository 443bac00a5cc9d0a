package proxy_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/pace"
	"github.com/countersign/countersign/internal/pgtest"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/proxy"
	"github.com/countersign/countersign/storage/embedded"
)

const publicHost = "registry.example:8443"

// hash is the bcrypt hash of "secret", made once: making one takes a while on purpose.
var hash = sync.OnceValue(func() string {
	h, err := auth.HashPassword("secret")
	if err != nil {
		panic(err)
	}
	return h
})

// world is a registry over a real store and real files.
type world struct {
	t       *testing.T
	store   *store.Store
	storage *embedded.Storage
	root    string // the storage's directory
	options proxy.Options
	server  *httptest.Server
	pace    pace.Options
}

func newWorld(t *testing.T, edits ...func(*proxy.Options)) *world {
	t.Helper()
	s, err := store.Open(t.Context(), pgtest.Or(t, filepath.Join(t.TempDir(), "registry.db")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.DB.Close() })
	if err := s.DB.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, u := range []struct {
		name  string
		staff bool
	}{{"admin", true}, {"acme", false}, {"carol", false}} {
		if _, err := s.Accounts.PutUser(t.Context(), u.name, hash(), u.staff, true); err != nil {
			t.Fatal(err)
		}
	}
	root := t.TempDir()
	files, err := embedded.New(t.Context(), embedded.Options{Driver: "filesystem", Parameters: map[string]any{"rootdirectory": root}})
	if err != nil {
		t.Fatal(err)
	}
	key, err := auth.KeptKey(t.Context(), s.DB)
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := auth.NewTokens(key, "https://"+publicHost+"/token/", publicHost, 5*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, store: s, storage: files, root: root, options: proxy.Options{
		Store: s, Auth: auth.New(s.Accounts), Tokens: tokens, Storage: files, Log: slog.New(slog.DiscardHandler),
		PublicURL: &url.URL{Scheme: "https", Host: publicHost}, PushType: pulp.ContainerPush, AnonymousPull: auth.AnonymousPullOn, InlineLimit: 16 << 10,
	}}
	for _, edit := range edits {
		edit(&w.options)
	}
	w.restart()
	return w
}

// restart puts a fresh handler, which has kept nothing, in front of the same store and files.
func (w *world) restart() {
	if w.server != nil {
		w.server.Close()
	}
	w.server = httptest.NewServer(pace.Handler(proxy.New(w.options), w.pace))
	w.t.Cleanup(w.server.Close)
}

// answer is what the registry said.
type answer struct {
	status int
	header http.Header
	body   string
}

// code returns the code of an answer's error.
func (a answer) code() string {
	var body struct {
		Errors []struct{ Code string }
	}
	if json.Unmarshal([]byte(a.body), &body) != nil || len(body.Errors) == 0 {
		return ""
	}
	return body.Errors[0].Code
}

// ask sends a request. who is a user's name, "" for nobody, or a whole Authorization header. Headers come in pairs.
func (w *world) ask(who, method, path string, body any, headers ...string) answer {
	w.t.Helper()
	var reader io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		reader = strings.NewReader(b)
	case []byte:
		reader = bytes.NewReader(b)
	case io.Reader:
		reader = b
	}
	r, err := http.NewRequestWithContext(w.t.Context(), method, w.server.URL+path, reader)
	if err != nil {
		w.t.Fatal(err)
	}
	switch {
	case strings.Contains(who, " "):
		r.Header.Set("Authorization", who)
	case who != "":
		r.SetBasicAuth(who, "secret")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	res, err := (&http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	if res.Header.Get("Docker-Distribution-Api-Version") != "registry/2.0" || res.Header.Get("X-Registry-Supports-Signatures") != "1" {
		w.t.Errorf("%s %s lacks the registry's headers", method, path)
	}
	return answer{res.StatusCode, res.Header, string(b)}
}

// want asks and demands a status, and for an error its code.
func (w *world) want(status int, code, who, method, path string, body any, headers ...string) answer {
	w.t.Helper()
	a := w.ask(who, method, path, body, headers...)
	if a.status != status || a.code() != code {
		w.t.Errorf("%s %.120s as %q = %d %s, want %d %s\n%.300s", method, path, who, a.status, a.code(), status, code, a.body)
	}
	return a
}

// pushBlob sends a blob whole.
func (w *world) pushBlob(name, content string) digest.Digest {
	w.t.Helper()
	d := digest.FromString(content)
	w.want(http.StatusCreated, "", "admin", http.MethodPost, "/v2/"+name+"/blobs/uploads/?digest="+string(d), content)
	return d
}

// imageOf pushes the blobs of an image and returns its manifest.
func (w *world) imageOf(name, text string) string {
	w.t.Helper()
	config := `{"architecture":"amd64","os":"linux","config":{"Labels":{"text":"` + text + `"}}}`
	c, l := w.pushBlob(name, config), w.pushBlob(name, "layer "+text)
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},`+
		`"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":%d}]}`, pulp.OCIManifest, c, len(config), l, len("layer "+text))
}

// pushImage pushes an image under a reference, or by digest when there is none, and returns its digest.
func (w *world) pushImage(name, text, reference string) digest.Digest {
	w.t.Helper()
	m := w.imageOf(name, text)
	d := digest.FromString(m)
	if reference == "" {
		reference = string(d)
	}
	w.want(http.StatusCreated, "", "admin", http.MethodPut, "/v2/"+name+"/manifests/"+reference, m, "Content-Type", pulp.OCIManifest)
	return d
}

// private makes a repository's distribution private.
func (w *world) private(name string) {
	w.t.Helper()
	if err := w.store.Catalog.SetPrivate(w.t.Context(), name, true); err != nil {
		w.t.Fatal(err)
	}
}
