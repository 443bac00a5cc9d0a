package proxy_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/proxy"
	"github.com/countersign/countersign/storage/upstream"
)

// recordingUpstream is bare distribution that records the requests it receives.
type recordingUpstream struct {
	url         string
	connections atomic.Int64
	redirectTo  atomic.Value // the URL to which it redirects GET of blobs; empty for none
	unavailable atomic.Bool  // it responds with 503

	mu       sync.Mutex
	requests []string // method, kind of path and range
}

// newUpstreamWorld returns a registry in front of bare distribution.
func newUpstreamWorld(t *testing.T, edits ...func(*proxy.Options)) (*world, *recordingUpstream) {
	t.Helper()
	logrus.SetOutput(io.Discard)
	config := &configuration.Configuration{Storage: configuration.Storage{
		"filesystem":  configuration.Parameters{"rootdirectory": t.TempDir()},
		"delete":      configuration.Parameters{"enabled": true},
		"maintenance": configuration.Parameters{"uploadpurging": map[any]any{"enabled": false}},
	}}
	config.HTTP.Secret = "test"
	app := handlers.NewApp(t.Context(), config)
	b := &recordingUpstream{}
	b.redirectTo.Store("")
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if b.unavailable.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		if b.note(r); strings.Contains(r.URL.Path, "/blobs/sha256:") && r.Method == http.MethodGet &&
			b.redirectTo.Load() != "" {
			http.Redirect(w, r, b.redirectTo.Load().(string), http.StatusTemporaryRedirect)
			return
		}
		app.ServeHTTP(w, r)
	}))
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			b.connections.Add(1)
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	b.url = server.URL
	s, err := upstream.New(upstream.Options{URL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	return newWorld(
		t,
		append([]func(*proxy.Options){func(o *proxy.Options) { o.Storage, o.InlineLimit = s, 0 }}, edits...)...), b
}

func (b *recordingUpstream) note(r *http.Request) {
	kind := "other"
	for _, one := range []string{"/blobs/uploads/", "/blobs/", "/manifests/"} {
		if strings.Contains(r.URL.Path, one) {
			kind = strings.Trim(one, "/")
			break
		}
	}
	if r.URL.Query().Has("mount") {
		kind = "mount"
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.requests = append(b.requests, strings.TrimSpace(r.Method+" "+kind+" "+r.Header.Get("Range")))
}

// expectRequests checks the requests since the last call.
func (b *recordingUpstream) expectRequests(t *testing.T, operation string, want ...string) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.Equal(b.requests, want) {
		t.Errorf("%s: requests to the upstream %q, want %q", operation, b.requests, want)
	}
	b.requests = nil
}

// TestUpstreamRequests checks the number of requests to the upstream, each of which delays a client.
func TestUpstreamRequests(t *testing.T) {
	t.Parallel()
	w, b := newUpstreamWorld(t)
	content := random(50_000, 40)
	d := digest.FromBytes(content)
	blob := "/v2/acme/app/blobs/" + string(d)

	at := w.startUpload("acme/app")
	b.expectRequests(t, "opening an upload")
	w.expect(
		request{as: "admin", method: http.MethodPut, path: at + "?digest=" + string(d), body: content},
		http.StatusCreated,
	)
	b.expectRequests(t, "a whole blob", "POST blobs/uploads", "PUT blobs/uploads")

	second := random(50_000, 41)
	at = w.startUpload("acme/app")
	w.expect(request{as: "admin", method: http.MethodPatch, path: at, body: second}, http.StatusAccepted)
	w.expect(
		request{as: "admin", method: http.MethodPut, path: at + "?digest=" + string(digest.FromBytes(second))},
		http.StatusCreated,
	)
	b.expectRequests(t, "a streamed blob", "POST blobs/uploads", "PATCH blobs/uploads", "PUT blobs/uploads")

	at = w.startUpload("acme/app")
	w.expect(
		request{as: "admin", method: http.MethodPut, path: at + "?digest=" + string(digest.FromString(""))},
		http.StatusCreated,
	)
	b.expectRequests(t, "an empty blob", "POST blobs/uploads", "PUT blobs/uploads")

	w.wantBlob("acme/app", d, content)
	b.expectRequests(t, "a pull", "GET blobs")
	w.expect(request{method: http.MethodHead, path: blob}, http.StatusOK)
	b.expectRequests(t, "HEAD", "HEAD blobs")

	w.expect(
		request{
			as:     "admin",
			method: http.MethodPost,
			path:   "/v2/acme/other/blobs/uploads/?mount=" + string(d) + "&from=acme/app",
		},
		http.StatusCreated,
	)
	b.expectRequests(t, "a mount", "POST mount")
	w.expect(
		request{
			as:     "admin",
			method: http.MethodPost,
			path:   "/v2/acme/app/blobs/uploads/?mount=" + string(d) + "&from=acme/app",
		},
		http.StatusCreated,
	)
	b.expectRequests(t, "a mount to where it lies")

	image := w.imageOf("acme/app", "asked")
	b.expectRequests(t, "two blobs", "POST blobs/uploads", "PUT blobs/uploads", "POST blobs/uploads", "PUT blobs/uploads")
	w.expect(
		manifestPut("/v2/acme/app/manifests/v1", image, "application/vnd.oci.image.manifest.v1+json"),
		http.StatusCreated,
	)
	b.expectRequests(t, "a manifest", "PUT manifests")
	w.expect(request{path: "/v2/acme/app/manifests/v1"}, http.StatusOK)
	b.expectRequests(t, "a pull of a manifest")
	if n := b.connections.Load(); n > 2 { // one connection may still be in use
		t.Errorf("%d connections for requests one after the other", n)
	}
}

func TestRangesUpstream(t *testing.T) {
	t.Parallel()
	w, b := newUpstreamWorld(t)
	content := random(50_000, 42)
	blob := "/v2/acme/app/blobs/" + string(w.pushBlob("acme/app", string(content)))
	b.expectRequests(t, "a push", "POST blobs/uploads", "PUT blobs/uploads")
	for _, c := range []struct {
		want        string
		first, last int
		asks        []string
	}{
		{want: "bytes=0-9", last: 9, asks: []string{"GET blobs bytes=0-9"}},
		{want: "bytes=100-199", first: 100, last: 199, asks: []string{"GET blobs bytes=100-199"}},
		{want: "bytes=49990-", first: 49_990, last: 49_999, asks: []string{"GET blobs bytes=49990-49999"}},
		{want: "bytes=0-", last: 49_999, asks: []string{"GET blobs"}},
		{want: "bytes=-10", first: 49_990, last: 49_999, asks: []string{"GET blobs bytes=49990-49999"}},
		{want: "bytes=-90000", last: 49_999, asks: []string{"GET blobs"}},
		{want: "bytes=40000-90000", first: 40_000, last: 49_999, asks: []string{"GET blobs bytes=40000-49999"}},
	} {
		a := w.expect(request{path: blob, headers: []string{"Range", c.want}}, http.StatusPartialContent)
		place := fmt.Sprintf("bytes %d-%d/50000", c.first, c.last)
		if a.body != string(content[c.first:c.last+1]) || a.header.Get("Content-Range") != place {
			t.Errorf("%s: %d bytes at %s, want %s", c.want, len(a.body), a.header.Get("Content-Range"), place)
		}
		b.expectRequests(t, c.want, c.asks...)
	}
	for _, none := range []string{"bytes=50000-", "bytes=9-5", "bytes=90000-90001"} {
		if a := w.send(request{path: blob, headers: []string{"Range", none}}); a.status != http.StatusRequestedRangeNotSatisfiable {
			t.Errorf("%s status %d", none, a.status)
		}
		b.expectRequests(t, none, "HEAD blobs")
	}
	a := w.expect(request{path: blob, headers: []string{"Range", "bytes=5-9", "If-Range", `"another"`}}, http.StatusOK)
	if a.body != string(content) {
		t.Errorf("a range of another blob response has %d bytes", len(a.body))
	}
	a = w.expect(request{path: blob, headers: []string{"Range", "bytes=5-9,100-110"}}, http.StatusPartialContent)
	if !strings.Contains(a.body, string(content[100:111])) || !strings.Contains(a.body, string(content[5:10])) {
		t.Errorf("two ranges are answered with %d bytes", len(a.body))
	}
}

// TestConcurrentUploadsUpstream checks that two concurrent uploads of the same blob to the same repository do not mix
// their chunks.
func TestConcurrentUploadsUpstream(t *testing.T) {
	t.Parallel()
	w, _ := newUpstreamWorld(t)
	one, two := random(60_000, 43), random(60_000, 44)
	ats := []string{w.startUpload("acme/app"), w.startUpload("acme/app")}
	for from := 0; from < 60_000; from += 20_000 {
		place := fmt.Sprintf("%d-%d", from, from+19_999)
		w.expect(
			request{
				as:      "admin",
				method:  http.MethodPatch,
				path:    ats[0],
				body:    one[from : from+20_000],
				headers: []string{"Content-Range", place},
			},
			http.StatusAccepted,
		)
		w.expect(
			request{
				as:      "admin",
				method:  http.MethodPatch,
				path:    ats[1],
				body:    two[from : from+20_000],
				headers: []string{"Content-Range", place},
			},
			http.StatusAccepted,
		)
		w.restart() // another process
	}
	w.expectError(
		request{as: "admin", method: http.MethodPut, path: ats[0] + "?digest=" + string(digest.FromBytes(two))},
		http.StatusBadRequest,
		"DIGEST_INVALID",
	)
	w.expect(
		request{as: "admin", method: http.MethodPut, path: ats[1] + "?digest=" + string(digest.FromBytes(two))},
		http.StatusCreated,
	)
	w.wantBlob("acme/app", digest.FromBytes(two), two)
	w.expectError(request{as: "admin", path: ats[0]}, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN")
}

// TestRedirectsArePassedThrough checks that redirects of the upstream are passed to clients with permission to read
// the blob, and only to those.
func TestRedirectsArePassedThrough(t *testing.T) {
	t.Parallel()
	w, b := newUpstreamWorld(t, func(o *proxy.Options) { o.PassThroughRedirects = true })
	content := random(50_000, 45)
	blob := "/v2/acme/app/blobs/" + string(w.pushBlob("acme/app", string(content)))
	b.expectRequests(t, "a push", "POST blobs/uploads", "PUT blobs/uploads")
	w.wantBlob("acme/app", digest.FromBytes(content), content)
	b.expectRequests(t, "a pull that is not redirected", "GET blobs")
	a := w.expect(request{path: blob, headers: []string{"Range", "bytes=10-19"}}, http.StatusPartialContent)
	if a.body != string(content[10:20]) {
		t.Errorf("a range is %d bytes", len(a.body))
	}
	b.expectRequests(t, "a range that is not redirected", "GET blobs bytes=10-19")

	const signed = "http://store.example/bytes?signature=secret"
	b.redirectTo.Store(signed)
	for _, part := range []string{"", "bytes=10-19", "bytes=5-9,100-110"} {
		a := w.expect(request{path: blob, headers: []string{"Range", part}}, http.StatusTemporaryRedirect)
		if a.header.Get("Location") != signed || a.header.Get("Cache-Control") != "no-store" ||
			a.header.Get("Etag") != "" ||
			a.body != "" {
			t.Errorf("range %q: redirect with headers %v and body %q", part, a.header, a.body)
		}
	}
	b.expectRequests(t, "redirected reads", "GET blobs", "GET blobs bytes=10-19", "GET blobs")
	w.expect(request{method: http.MethodHead, path: blob}, http.StatusOK)
	b.expectRequests(t, "HEAD", "HEAD blobs")
	w.setPrivate("acme/app")
	w.expectError(request{path: blob}, http.StatusUnauthorized, "UNAUTHORIZED")
	if a := w.send(request{as: "carol", path: blob}); a.status == http.StatusTemporaryRedirect ||
		a.header.Get("Location") != "" {
		t.Errorf("a caller without permission is redirected: %d %v", a.status, a.header)
	}
	b.expectRequests(t, "caller may not read")

	b.redirectTo.Store(b.url + "/elsewhere") // this URL requires credentials
	w.expectError(request{as: "admin", path: blob}, http.StatusServiceUnavailable, "UNAVAILABLE")
	b.expectRequests(t, "a redirect within the upstream", "GET blobs", "GET other")
}

// pattern is a reader of pseudo-random bytes that are never stored in full.
type pattern struct {
	left int64
	from *rand.ChaCha8
}

// Read implements io.Reader.
func (p *pattern) Read(b []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	n, _ := p.from.Read(b[:min(int64(len(b)), p.left)])
	p.left -= int64(n)
	return n, nil
}

func newPattern(size int64) *pattern { return &pattern{size, rand.NewChaCha8([32]byte{46})} }

// TestLargeBlobsUpstream checks that large blobs are streamed: client, server and upstream together allocate much
// less memory than the size of the blob.
func TestLargeBlobsUpstream(t *testing.T) { //nolint:paralleltest // it measures allocations
	const size, most = 200 << 20, 40 << 20
	w, _ := newUpstreamWorld(t)
	hash := sha256.New()
	if _, err := io.Copy(hash, newPattern(size)); err != nil {
		t.Fatal(err)
	}
	d := digest.NewDigest(digest.SHA256, hash)
	allocates := func(operation string, do func()) {
		t.Helper()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		do()
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > most {
			t.Errorf("%s of %d MiB allocates %d MiB", operation, size>>20, n>>20)
		}
	}
	for _, name := range []string{"acme/streamed", "acme/whole"} {
		at := w.startUpload(name)
		allocates("a push", func() {
			if name == "acme/streamed" {
				w.expect(
					request{as: "admin", method: http.MethodPatch, path: at, body: newPattern(size)},
					http.StatusAccepted,
				)
				w.expect(
					request{as: "admin", method: http.MethodPut, path: at + "?digest=" + string(d)},
					http.StatusCreated,
				)
			} else {
				w.expect(request{as: "admin", method: http.MethodPut, path: at + "?digest=" + string(d), body: newPattern(size)}, http.StatusCreated)
			}
		})
	}
	allocates("a pull", func() {
		r, err := http.NewRequestWithContext(
			t.Context(),
			http.MethodGet,
			w.server.URL+"/v2/acme/whole/blobs/"+string(d),
			nil,
		)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		got := sha256.New()
		if n, err := io.Copy(got, res.Body); err != nil || n != size || digest.NewDigest(digest.SHA256, got) != d {
			t.Errorf("%d bytes came back, %v", n, err)
		}
	})
}

// TestRetryAfterOfTheUpstream checks that 429 and 507 of the upstream become 503 with the upstream's Retry-After.
func TestRetryAfterOfTheUpstream(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		status     int
		says, want string
	}{
		{status: http.StatusInsufficientStorage, says: "120", want: "120"}, {status: http.StatusTooManyRequests, says: "7", want: "7"}, {status: http.StatusTooManyRequests, says: "86400", want: "300"}, {status: http.StatusInsufficientStorage, want: "1"},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if tt.says != "" {
				w.Header().Set("Retry-After", tt.says)
			}
			w.WriteHeader(tt.status)
		}))
		t.Cleanup(server.Close)
		s, err := upstream.New(upstream.Options{URL: server.URL})
		if err != nil {
			t.Fatal(err)
		}
		w := newWorld(t, func(o *proxy.Options) { o.Storage, o.InlineLimit = s, 0 })
		content := random(50_000, 41)
		a := w.expectError(
			request{
				as:     "admin",
				method: http.MethodPost,
				path:   "/v2/acme/app/blobs/uploads/?digest=" + string(digest.FromBytes(content)),
				body:   content,
			},
			http.StatusServiceUnavailable,
			"UNAVAILABLE",
		)
		if got := a.header.Get("Retry-After"); got != tt.want {
			t.Errorf(
				"the upstream's %d with Retry-After %q is answered with %q, want %q",
				tt.status,
				tt.says,
				got,
				tt.want,
			)
		}
	}
}

// TestUpstreamDecidesForNarrowAccept checks that the upstream selects the manifest for a client whose Accept header
// does not match the manifest of a tag: distribution returns the linux/amd64 image of a Docker list to clients
// without support for lists, and rejects OCI images for clients without support for them.
func TestUpstreamDecidesForNarrowAccept(t *testing.T) {
	t.Parallel()
	w, b := newUpstreamWorld(t)
	oci := w.imageOf("acme/app", "one")
	docker := strings.NewReplacer(pulp.OCIManifest, pulp.DockerManifest, "application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json",
		"application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.docker.image.rootfs.diff.tar.gzip").
		Replace(oci)
	list := fmt.Sprintf(
		`{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":%d,"platform":{"architecture":"amd64","os":"linux"}}]}`,
		pulp.DockerList,
		pulp.DockerManifest,
		digest.FromString(docker),
		len(docker),
	)
	put := func(reference, mediaType, payload string) {
		t.Helper()
		w.expect(manifestPut("/v2/acme/app/manifests/"+reference, payload, mediaType), http.StatusCreated)
		r, err := http.NewRequestWithContext(
			t.Context(),
			http.MethodPut,
			b.url+"/v2/acme/app/manifests/"+reference,
			strings.NewReader(payload),
		)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", mediaType)
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusCreated {
			t.Fatalf("upstream: status %s for %s", res.Status, reference)
		}
	}
	put(string(digest.FromString(docker)), pulp.DockerManifest, docker)
	put("multi", pulp.DockerList, list)
	put("oci", pulp.OCIManifest, oci)
	if got := w.expect(request{path: "/v2/acme/app/manifests/multi", headers: []string{"Accept", pulp.DockerManifest}}, http.StatusOK); got.body != docker ||
		got.header.Get("Docker-Content-Digest") != string(digest.FromString(docker)) ||
		got.header.Get("Content-Type") != pulp.DockerManifest {
		t.Errorf("a client without lists gets %s, %v", got.body, got.header)
	}
	if got := w.expectError(request{path: "/v2/acme/app/manifests/oci", headers: []string{"Accept", pulp.DockerManifest}}, http.StatusNotFound, "MANIFEST_UNKNOWN"); !strings.Contains(
		got.body,
		"Accept header",
	) {
		t.Errorf("the response does not name the cause: %s", got.body)
	}
	if got := w.expect(request{path: "/v2/acme/app/manifests/multi"}, http.StatusOK); got.body != list {
		t.Errorf("a client without an Accept header gets %s", got.body)
	}
}
