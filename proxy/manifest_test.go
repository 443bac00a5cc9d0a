package proxy_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/proxy"
)

func TestManifests(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.imageOf("acme/app", "one")
	d := string(digest.FromString(m))
	put := w.expect(manifestPut("/v2/acme/app/manifests/v1", m, pulp.OCIManifest), http.StatusCreated)
	if put.header.Get("Location") != "/v2/acme/app/manifests/"+d || put.header.Get("Docker-Content-Digest") != d ||
		put.body != "" {
		t.Errorf("PUT: response %+v", put)
	}
	for _, reference := range []string{"v1", d} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			a := w.expect(request{method: method, path: "/v2/acme/app/manifests/" + reference}, http.StatusOK)
			if a.header.Get("Content-Type") != pulp.OCIManifest || a.header.Get("Docker-Content-Digest") != d ||
				a.header.Get("Content-Length") != fmt.Sprint(len(m)) {
				t.Errorf("%s %s: response %v", method, reference, a.header)
			}
			if method == http.MethodGet && a.body != m {
				t.Errorf("%s has other bytes than were pushed", reference)
			}
		}
	}
	accept := map[string]int{
		"": http.StatusOK, " , ;q=1": http.StatusOK, "*/*": http.StatusOK, pulp.OCIManifest: http.StatusOK, pulp.OCIManifest + ";q=0.5": http.StatusOK,
		pulp.DockerManifest + ", " + pulp.OCIManifest: http.StatusOK, pulp.DockerManifest: http.StatusNotFound, "application/*": http.StatusOK,
		pulp.OCIManifest + ";q=0, */*": http.StatusNotFound, "text/*": http.StatusNotFound, "*/*;q=0": http.StatusNotFound,
	}
	for header, status := range accept {
		headers := []string{"Accept", header}
		if a := w.send(request{path: "/v2/acme/app/manifests/v1", headers: headers}); a.status != status {
			t.Errorf("Accept %q: %d, want %d", header, a.status, status)
		}
		w.expect(request{path: "/v2/acme/app/manifests/" + d, headers: headers}, http.StatusOK)
	}
	w.expect(request{as: "admin", method: http.MethodDelete, path: "/v2/acme/app/manifests/v1"}, http.StatusAccepted)
	w.expectError(request{path: "/v2/acme/app/manifests/v1"}, http.StatusNotFound, "MANIFEST_UNKNOWN")
	w.expect(request{path: "/v2/acme/app/manifests/" + d}, http.StatusOK)
	w.expect(request{as: "admin", method: http.MethodDelete, path: "/v2/acme/app/manifests/" + d}, http.StatusAccepted)
	w.expectError(
		request{as: "admin", method: http.MethodDelete, path: "/v2/acme/app/manifests/" + d},
		http.StatusNotFound,
		"MANIFEST_UNKNOWN",
	)
}

// TestUnacceptedManifest checks that the error for a tag whose manifest does not match the Accept header names the
// header and the media type, that repeated headers are combined, and that requests by digest ignore the header.
func TestUnacceptedManifest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.pushImage("acme/app", "one", "v1")
	got := w.expectError(
		request{path: "/v2/acme/app/manifests/v1", headers: []string{"Accept", pulp.DockerManifest}},
		http.StatusNotFound,
		"MANIFEST_UNKNOWN",
	)
	if !strings.Contains(got.body, "Accept header") || !strings.Contains(got.body, pulp.OCIManifest) {
		t.Errorf("the response does not name the cause: %s", got.body)
	}
	if got := w.expectError(request{path: "/v2/acme/app/manifests/v2", headers: []string{"Accept", pulp.DockerManifest}}, http.StatusNotFound, "MANIFEST_UNKNOWN"); strings.Contains(
		got.body,
		"Accept",
	) {
		t.Errorf("the response for an absent tag blames the Accept header: %s", got.body)
	}
	w.expect(
		request{path: "/v2/acme/app/manifests/" + string(d), headers: []string{"Accept", pulp.DockerManifest}},
		http.StatusOK,
	)
	if got := w.sendRaw(request{path: "/v2/acme/app/manifests/v1", headers: []string{"Accept", pulp.DockerManifest, "Accept", pulp.OCIManifest}}); got.status != http.StatusOK {
		t.Errorf("two Accept headers: %d", got.status)
	}
}

// TestDeleteListedManifest checks that DELETE by digest removes the tags of an image but not the image while an index
// references it.
func TestDeleteListedManifest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := string(w.pushImage("acme/app", "one", "v1"))
	list := fmt.Sprintf(
		`{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":1}]}`,
		pulp.OCIIndex,
		pulp.OCIManifest,
		d,
	)
	w.expect(manifestPut("/v2/acme/app/manifests/multi", list, pulp.OCIIndex), http.StatusCreated)
	for range 2 {
		w.expect(
			request{as: "admin", method: http.MethodDelete, path: "/v2/acme/app/manifests/" + d},
			http.StatusAccepted,
		)
		w.expect(request{path: "/v2/acme/app/manifests/" + d}, http.StatusOK)
		if got := w.send(request{path: "/v2/acme/app/tags/list"}); got.body != `{"name":"acme/app","tags":["multi"]}` {
			t.Errorf("tags: %s", got.body)
		}
	}
	w.expect(
		request{
			as:     "admin",
			method: http.MethodDelete,
			path:   "/v2/acme/app/manifests/" + string(digest.FromString(list)),
		},
		http.StatusAccepted,
	)
	w.expectError(request{path: "/v2/acme/app/manifests/" + d}, http.StatusNotFound, "MANIFEST_UNKNOWN")
}

// TestBadManifests pushes invalid manifests. It covers hostile-inputs.md#oversized-manifest, #ambiguous-manifest and
// #hostile-tags.
func TestBadManifests(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.imageOf("acme/app", "one")
	other := w.imageOf("acme/other", "two")
	long := strings.Repeat("x", 129)
	tests := map[string]struct {
		path, body, contentType string
		status                  int
		code                    string
	}{
		"another digest": {
			path:   string(digest.FromString("other")),
			body:   m,
			status: http.StatusBadRequest,
			code:   "DIGEST_INVALID",
		},
		"a digest of an unknown kind": {
			path:   "md5:d41d8cd98f00b204e9800998ecf8427e",
			body:   m,
			status: http.StatusBadRequest,
			code:   "DIGEST_INVALID",
		},
		"no JSON": {
			path:   "v1",
			body:   "{",
			status: http.StatusBadRequest,
			code:   "MANIFEST_INVALID",
		},
		"nothing": {path: "v1", status: http.StatusBadRequest, code: "MANIFEST_INVALID"},
		"another Content-Type": {
			path:        "v1",
			body:        m,
			contentType: pulp.DockerManifest,
			status:      http.StatusBadRequest,
			code:        "MANIFEST_INVALID",
		},
		"blobs of another repository": {
			path:   "v1",
			body:   other,
			status: http.StatusBadRequest,
			code:   "MANIFEST_BLOB_UNKNOWN",
		},
		"a tag that begins with a dot": {path: ".v1", body: m, status: http.StatusBadRequest, code: "TAG_INVALID"},
		"a tag that is too long":       {path: long, body: m, status: http.StatusBadRequest, code: "TAG_INVALID"},
		"a tag with a tilde":           {path: "-bad~tag", body: m, status: http.StatusBadRequest, code: "TAG_INVALID"},
		"a tag with a line break":      {path: "a%0ab", body: m, status: http.StatusBadRequest, code: "TAG_INVALID"},
		"more than 4 MiB": {
			path:   "v1",
			body:   m + strings.Repeat(" ", pulp.MaxManifestSize),
			status: http.StatusRequestEntityTooLarge,
			code:   "MANIFEST_INVALID",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w.expectError(manifestPut("/v2/acme/app/manifests/"+tt.path, tt.body, tt.contentType), tt.status, tt.code)
		})
	}
	if a := w.send(request{as: "admin", method: http.MethodPut, path: "/v2/acme/app/manifests/v1", body: io.LimitReader(endless{}, 64<<20)}); a.status != http.StatusRequestEntityTooLarge {
		t.Errorf("a stream without end status %d", a.status)
	}
	if a := w.send(request{path: "/v2/acme/app/tags/list"}); a.body != `{"name":"acme/app","tags":[]}` {
		t.Errorf("unexpected content: %s", a.body)
	}
	w.expectError(manifestPut("/v2/acme/new/manifests/v1", m, pulp.OCIManifest), http.StatusNotFound, "NAME_UNKNOWN")
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// TestIndexes pushes complete and sparse indexes. See compatibility.md#absent-parts.
func TestIndexes(t *testing.T) {
	t.Parallel()
	index := func(children ...digest.Digest) string {
		var list []string
		for _, d := range children {
			list = append(list, fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":1}`, pulp.OCIManifest, d))
		}
		return fmt.Sprintf(
			`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`,
			pulp.OCIIndex,
			strings.Join(list, ","),
		)
	}
	for required, status := range map[bool]int{false: http.StatusCreated, true: http.StatusBadRequest} {
		w := newWorld(t, func(o *proxy.Options) { o.RequireIndexChildren = required })
		a, b := w.pushImage("acme/app", "amd64", ""), w.pushImage("acme/app", "arm64", "")
		w.expect(
			request{
				as:      "admin",
				method:  http.MethodPut,
				path:    "/v2/acme/app/manifests/multi",
				body:    index(a, b),
				headers: []string{"Content-Type", pulp.OCIIndex},
			},
			http.StatusCreated,
		)
		w.expect(request{path: "/v2/acme/app/manifests/" + string(b)}, http.StatusOK)
		if got := w.send(request{as: "admin", method: http.MethodPut, path: "/v2/acme/app/manifests/sparse", body: index(a, digest.FromString("absent"))}); got.status != status {
			t.Errorf("a sparse index, children required %v: %d, want %d", required, got.status, status)
		}
		// A list can create a repository.
		w.expect(manifestPut("/v2/acme/lists/manifests/empty", index(), pulp.OCIIndex), http.StatusCreated)
	}
}

func TestTagParameters(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.imageOf("acme/app", "one")
	d := digest.SHA512.FromString(m)
	path := "/v2/acme/app/manifests/" + string(d)
	a := w.expect(manifestPut(path+"?tag=a&tag=b&tag=a", m, pulp.OCIManifest), http.StatusCreated)
	if a.header.Get("Docker-Content-Digest") != string(d) || len(a.header.Values("OCI-Tag")) == 0 {
		t.Errorf("PUT: response %v", a.header)
	}
	for _, tag := range []string{"a", "b"} {
		if got := w.expect(request{path: "/v2/acme/app/manifests/" + tag}, http.StatusOK); got.header.Get(
			"Docker-Content-Digest",
		) != string(
			d,
		) {
			t.Errorf("%s is %s", tag, got.header.Get("Docker-Content-Digest"))
		}
	}
	w.expectError(manifestPut(path+"?tag=.x", m, pulp.OCIManifest), http.StatusBadRequest, "TAG_INVALID")
	a = w.expect(manifestPut("/v2/acme/app/manifests/c?tag=d", m, pulp.OCIManifest), http.StatusCreated)
	if a.header.Get("OCI-Tag") != "" { // a PUT by tag ignores tag parameters
		t.Errorf("PUT by tag: response %v", a.header)
	}
	w.expectError(request{path: "/v2/acme/app/manifests/d"}, http.StatusNotFound, "MANIFEST_UNKNOWN")
}

// TestGoContainerRegistryAsClient pushes, lists, pulls and deletes with go-containerregistry, which gets its own
// tokens.
func TestGoContainerRegistryAsClient(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	server := httptest.NewUnstartedServer(nil)
	host := server.Listener.Addr().String()
	w.options.PublicURL = &url.URL{Scheme: "http", Host: host} // the URL of the token service for the client
	server.Config.Handler = proxy.New(w.options)
	server.Start()
	t.Cleanup(server.Close)
	const pushes = 50
	auth := remote.WithAuth(&authn.Basic{Username: "admin", Password: "secret"})
	var wg sync.WaitGroup
	for i := range pushes {
		wg.Go(func() {
			image, err := ggcr.Image(5000, 2)
			if err != nil {
				t.Error(err)
				return
			}
			ref, err := name.ParseReference(fmt.Sprintf("%s/acme/app:%d", host, i))
			if err != nil {
				t.Error(err)
				return
			}
			if err := remote.Write(ref, image, auth, remote.WithContext(t.Context())); err != nil {
				t.Errorf("push %d: %v", i, err)
				return
			}
			want, _ := image.Digest()
			got, err := remote.Get(ref, remote.WithContext(t.Context()))
			if err != nil || got.Digest != want {
				t.Errorf("pull %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	repo, err := name.NewRepository(host + "/acme/app")
	if err != nil {
		t.Fatal(err)
	}
	if tags, err := remote.List(repo, remote.WithContext(t.Context())); err != nil || len(tags) != pushes {
		t.Errorf("tags %v, %v", tags, err)
	}
	if err := remote.Delete(repo.Tag("3"), auth, remote.WithContext(t.Context())); err != nil {
		t.Errorf("delete: %v", err)
	}
	if tags, err := remote.List(repo, remote.WithContext(t.Context())); err != nil || len(tags) != pushes-1 {
		t.Errorf("tags after a delete %v, %v", tags, err)
	}
	target, err := w.store.Serving.Resolve(t.Context(), "acme/app")
	if err != nil || target.Repository.LatestVersion != pushes+1 {
		t.Errorf("the repository is at version %d, %v, want %d", target.Repository.LatestVersion, err, pushes+1)
	}
}
