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
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/pace"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/accounts"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/proxy"
	"github.com/countersign/countersign/storage/embedded"
)

const publicHost = "registry.example:8443"

// hash returns the bcrypt hash of "secret". It is computed once, since that is slow.
var hash = sync.OnceValue(func() string {
	h, err := auth.HashPassword("secret")
	if err != nil {
		panic(err)
	}
	return h
})

// world is a registry with a real store and real files.
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
	s := storetest.Open(t)
	for _, u := range []struct {
		name  string
		staff bool
	}{{"admin", true}, {"acme", false}, {"carol", false}} {
		account, err := s.Accounts.PutUser(t.Context(), u.name, hash(), u.staff, true)
		if err != nil {
			t.Fatal(err)
		}
		if !u.staff { // who owns the namespace, although tests push to it as admin
			n, err := s.Catalog.CreateNamespace(t.Context(), pulp.Namespace{Name: u.name}, 0)
			if err != nil {
				t.Fatal(err)
			}
			assign(t, s, account.ID, access.NamespaceOwner, access.Key(access.Namespace, n.ID))
		}
	}
	root := t.TempDir()
	files, err := embedded.New(
		t.Context(),
		embedded.Options{Driver: "filesystem", Parameters: map[string]any{"rootdirectory": root}},
	)
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
		Store: s, Auth: auth.New(s.Accounts, slog.New(slog.DiscardHandler)), Tokens: tokens, Storage: files, Log: slog.New(slog.DiscardHandler),
		PublicURL: &url.URL{
			Scheme: "https",
			Host:   publicHost,
		}, PushType: pulp.ContainerPush, AnonymousPull: auth.AnonymousPullOn, InlineLimit: 16 << 10,
	}}
	for _, edit := range edits {
		edit(&w.options)
	}
	w.restart()
	return w
}

// assign gives an account a role on an object; empty for all objects.
func assign(t *testing.T, s *store.Store, account int64, role, object string) {
	t.Helper()
	err := s.DB.InTx(t.Context(), func(x *sqldb.Tx) error {
		s.Accounts.Changed(x)
		return accounts.Assign(x, account, role, object)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// restart replaces the handler by a new one without cached state on the same store and files.
func (w *world) restart() {
	if w.server != nil {
		w.server.Close()
	}
	w.server = httptest.NewServer(pace.Handler(proxy.New(w.options), w.pace))
	w.t.Cleanup(w.server.Close)
}

// request is a request to the registry.
type request struct {
	as      string   // a user, whose password is "secret", or an Authorization header; "" for an anonymous request
	method  string   // default GET
	path    string   // with the query
	body    any      // nil, a string, a []byte or an io.Reader
	headers []string // names and values, alternating
}

// manifestPut returns the request by which admin pushes a manifest.
func manifestPut(path string, manifest any, mediaType string) request {
	return request{
		as: "admin", method: http.MethodPut, path: path, body: manifest, headers: []string{"Content-Type", mediaType},
	}
}

// response is a response of the registry.
type response struct {
	status int
	header http.Header
	body   string
}

// code returns the code of the error in a response, or "" if it is not an error.
func (r response) code() string {
	var body struct {
		Errors []struct{ Code string }
	}
	if json.Unmarshal([]byte(r.body), &body) != nil || len(body.Errors) == 0 {
		return ""
	}
	return body.Errors[0].Code
}

// build returns the request for http.Client.
func (r request) build(w *world) *http.Request {
	w.t.Helper()
	var body io.Reader
	switch b := r.body.(type) {
	case nil:
	case string:
		body = strings.NewReader(b)
	case []byte:
		body = bytes.NewReader(b)
	case io.Reader:
		body = b
	}
	built, err := http.NewRequestWithContext(w.t.Context(), r.method, w.server.URL+r.path, body)
	if err != nil {
		w.t.Fatal(err)
	}
	switch {
	case strings.Contains(r.as, " "):
		built.Header.Set("Authorization", r.as)
	case r.as != "":
		built.SetBasicAuth(r.as, "secret")
	}
	for i := 0; i+1 < len(r.headers); i += 2 {
		built.Header.Set(r.headers[i], r.headers[i+1])
	}
	return built
}

// send sends a request without following redirects, and checks the headers of every response.
func (w *world) send(r request) response {
	w.t.Helper()
	noRedirects := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	res, err := (&http.Client{CheckRedirect: noRedirects}).Do(r.build(w))
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	if res.Header.Get("Docker-Distribution-Api-Version") != "registry/2.0" ||
		res.Header.Get("X-Registry-Supports-Signatures") != "1" {
		w.t.Errorf("%s %s: the response lacks the headers of the registry", r.method, r.path)
	}
	return response{res.StatusCode, res.Header, string(b)}
}

// expect sends a request and checks that the response has the status and is not an error.
func (w *world) expect(r request, status int) response {
	w.t.Helper()
	return w.expectError(r, status, "")
}

// expectError sends a request and checks the status and the error code of the response. code is "" for no error.
func (w *world) expectError(r request, status int, code string) response {
	w.t.Helper()
	got := w.send(r)
	if got.status != status || got.code() != code {
		w.t.Errorf("%s %.120s as %q: status %d %s, want %d %s\n%.300s",
			r.method, r.path, r.as, got.status, got.code(), status, code, got.body)
	}
	return got
}

// pushBlob pushes a blob in one request.
func (w *world) pushBlob(name, content string) digest.Digest {
	w.t.Helper()
	d := digest.FromString(content)
	w.expect(
		request{
			as:     "admin",
			method: http.MethodPost,
			path:   "/v2/" + name + "/blobs/uploads/?digest=" + string(d),
			body:   content,
		},
		http.StatusCreated,
	)
	return d
}

// imageOf pushes the blobs of an image and returns its manifest.
func (w *world) imageOf(name, text string) string {
	w.t.Helper()
	config := `{"architecture":"amd64","os":"linux","config":{"Labels":{"text":"` + text + `"}}}`
	c, l := w.pushBlob(name, config), w.pushBlob(name, "layer "+text)
	return fmt.Sprintf(
		`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},`+
			`"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":%d}]}`,
		pulp.OCIManifest,
		c,
		len(config),
		l,
		len("layer "+text),
	)
}

// pushImage pushes an image and returns its digest. An empty reference pushes it by digest.
func (w *world) pushImage(name, text, reference string) digest.Digest {
	w.t.Helper()
	m := w.imageOf(name, text)
	d := digest.FromString(m)
	if reference == "" {
		reference = string(d)
	}
	w.expect(manifestPut("/v2/"+name+"/manifests/"+reference, m, pulp.OCIManifest), http.StatusCreated)
	return d
}

// setPrivate makes the distribution of a repository private.
func (w *world) setPrivate(name string) {
	w.t.Helper()
	if err := w.store.Catalog.SetPrivate(w.t.Context(), name, true); err != nil {
		w.t.Fatal(err)
	}
}
