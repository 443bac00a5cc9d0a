package proxy_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
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
		t.Errorf("PUT answers %+v", put)
	}
	for _, reference := range []string{"v1", d} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			a := w.expect(request{method: method, path: "/v2/acme/app/manifests/" + reference}, http.StatusOK)
			if a.header.Get("Content-Type") != pulp.OCIManifest || a.header.Get("Docker-Content-Digest") != d ||
				a.header.Get("Content-Length") != fmt.Sprint(len(m)) {
				t.Errorf("%s %s answers %v", method, reference, a.header)
			}
			if method == http.MethodGet && a.body != m {
				t.Errorf("%s is other bytes than were put", reference)
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

// TestUnacceptedManifest proves that the answer to a tag whose manifest the Accept header excludes names the header
// and the manifest's media type, that repeated headers count together, and that the digest is served to every client.
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
		t.Errorf("the answer does not name the cause: %s", got.body)
	}
	if got := w.expectError(request{path: "/v2/acme/app/manifests/v2", headers: []string{"Accept", pulp.DockerManifest}}, http.StatusNotFound, "MANIFEST_UNKNOWN"); strings.Contains(
		got.body,
		"Accept",
	) {
		t.Errorf("the answer to an absent tag blames the Accept header: %s", got.body)
	}
	w.expect(
		request{path: "/v2/acme/app/manifests/" + string(d), headers: []string{"Accept", pulp.DockerManifest}},
		http.StatusOK,
	)
	if got := w.sendRaw(request{path: "/v2/acme/app/manifests/v1", headers: []string{"Accept", pulp.DockerManifest, "Accept", pulp.OCIManifest}}); got.status != http.StatusOK {
		t.Errorf("two Accept headers: %d", got.status)
	}
}

// TestDeleteListedManifest proves that DELETE by digest answers 202, removes the tags of an image and goes on serving
// it while an index names it.
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

// TestBadManifests puts manifests that are refused. See hostile-inputs.md#oversized-manifest, hostile-inputs.md#ambiguous-manifest and hostile-inputs.md#hostile-tags.
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
		t.Errorf("a stream without end is answered %d", a.status)
	}
	if a := w.send(request{path: "/v2/acme/app/tags/list"}); a.body != `{"name":"acme/app","tags":[]}` {
		t.Errorf("something was stored: %s", a.body)
	}
	w.expectError(manifestPut("/v2/acme/new/manifests/v1", m, pulp.OCIManifest), http.StatusNotFound, "NAME_UNKNOWN")
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// TestIndexes puts whole indexes and sparse ones. See hostile-inputs.md#absent-children.
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
			t.Errorf("a sparse index, children required %v: %d, want %d (compatibility.md#absent-parts)", required, got.status, status)
		}
		// A list may be the first thing that comes to a name.
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
		t.Errorf("PUT answers %v", a.header)
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
	if a.header.Get("OCI-Tag") != "" { // a PUT by tag takes no others
		t.Errorf("PUT by tag answers %v", a.header)
	}
	w.expectError(request{path: "/v2/acme/app/manifests/d"}, http.StatusNotFound, "MANIFEST_UNKNOWN")
}

func TestReferrers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	subject := w.pushImage("acme/app", "one", "v1")
	empty := w.pushBlob("acme/app", "{}")
	var want []string
	for i, kind := range []string{"a/sbom", "a/sbom", "b/signature"} {
		m := fmt.Sprintf(
			`{"schemaVersion":2,"mediaType":%q,"artifactType":%q,"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[],`+
				`"subject":{"mediaType":%q,"digest":%q,"size":1},"annotations":{"n":"%d"}}`,
			pulp.OCIManifest,
			kind,
			empty,
			pulp.OCIManifest,
			subject,
			i,
		)
		a := w.expect(
			manifestPut("/v2/acme/app/manifests/"+string(digest.FromString(m)), m, pulp.OCIManifest),
			http.StatusCreated,
		)
		if a.header.Get("OCI-Subject") != string(subject) {
			t.Errorf("PUT answers %v", a.header)
		}
		want = append(want, string(digest.FromString(m)))
	}
	list := func(query string) (found []string, a response) {
		a = w.expect(request{path: "/v2/acme/app/referrers/" + query}, http.StatusOK)
		var body struct {
			MediaType string
			Manifests []struct {
				Digest, ArtifactType string
				Annotations          map[string]string
			}
		}
		if err := json.Unmarshal([]byte(a.body), &body); err != nil || body.MediaType != pulp.OCIIndex ||
			a.header.Get("Content-Type") != pulp.OCIIndex ||
			body.Manifests == nil {
			t.Errorf("referrers: %s, %v", a.body, err)
		}
		for _, m := range body.Manifests {
			if m.ArtifactType == "" || m.Annotations["n"] == "" {
				t.Errorf("referrer %+v", m)
			}
			found = append(found, m.Digest)
		}
		slices.Sort(found)
		return found, a
	}
	all := slices.Sorted(slices.Values(want))
	if got, a := list(string(subject)); !slices.Equal(got, all) || a.header.Get("OCI-Filters-Applied") != "" {
		t.Errorf("referrers %v, want %v", got, all)
	}
	if got, a := list(string(subject) + "?artifactType=" + url.QueryEscape("b/signature")); !slices.Equal(
		got,
		want[2:],
	) ||
		a.header.Get("OCI-Filters-Applied") != "artifactType" {
		t.Errorf("filtered %v, want %v", got, want[2:])
	}
	if got, _ := list(string(digest.FromString("nobody"))); len(got) != 0 {
		t.Errorf("referrers of nothing: %v", got)
	}
	w.expectError(request{path: "/v2/acme/app/referrers/latest"}, http.StatusBadRequest, "DIGEST_INVALID")
}

// Annotations may be large, and anybody who may push makes as many referrers as they like: they come in pages.
func TestReferrersInPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	subject := w.pushImage("acme/app", "one", "v1")
	empty := w.pushBlob("acme/app", "{}")
	var want, got []string
	for i := range 5 {
		m := fmt.Sprintf(
			`{"schemaVersion":2,"mediaType":%q,"artifactType":"a/sbom+x","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[],`+
				`"subject":{"mediaType":%q,"digest":%q,"size":1},"annotations":{"n":"%d%s"}}`,
			pulp.OCIManifest,
			empty,
			pulp.OCIManifest,
			subject,
			i,
			strings.Repeat("x", 400_000),
		)
		w.expect(
			manifestPut("/v2/acme/app/manifests/"+string(digest.FromString(m)), m, pulp.OCIManifest),
			http.StatusCreated,
		)
		want = append(want, fmt.Sprintf("%s %d", digest.FromString(m), len(m)))
	}
	pages := 0
	for path := "/v2/acme/app/referrers/" + string(subject) + "?artifactType=a%2Fsbom%2Bx"; path != ""; pages++ {
		a := w.expect(request{path: path}, http.StatusOK)
		var body struct {
			Manifests []struct {
				Digest string
				Size   int
			}
		}
		if err := json.Unmarshal([]byte(a.body), &body); err != nil || len(a.body) > 2<<20 || pages > 5 {
			t.Fatalf("page %d has %d bytes, %v", pages, len(a.body), err)
		}
		for _, m := range body.Manifests {
			got = append(got, fmt.Sprintf("%s %d", m.Digest, m.Size))
		}
		path = strings.TrimSuffix(strings.TrimPrefix(a.header.Get("Link"), "<https://"+publicHost), `>; rel="next"`)
	}
	if !slices.Equal(got, want) || pages != 3 {
		t.Errorf("%d pages: %v, want %v", pages, got, want)
	}
}

func TestLists(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, tag := range []string{"c", "a", "b", "latest", "1.0"} {
		w.pushImage("acme/app", "one", tag)
	}
	w.pushImage("acme/secret", "two", "v1")
	w.private("acme/secret")
	w.pushImage("bob/app", "three", "v1")
	w.pushImage("carol", "four", "v1")
	w.private("carol")
	const link = "<https://registry.example:8443"
	tests := map[string]struct{ who, path, body, link string }{
		"all tags": {
			path: "/v2/acme/app/tags/list",
			body: `{"name":"acme/app","tags":["1.0","a","b","c","latest"]}`,
		},
		"two tags": {
			path: "/v2/acme/app/tags/list?n=2",
			body: `{"name":"acme/app","tags":["1.0","a"]}`,
			link: link + `/v2/acme/app/tags/list?n=2&last=a>; rel="next"`,
		},
		"the next two": {
			path: "/v2/acme/app/tags/list?n=2&last=a",
			body: `{"name":"acme/app","tags":["b","c"]}`,
			link: link + `/v2/acme/app/tags/list?n=2&last=c>; rel="next"`,
		},
		"the last": {
			path: "/v2/acme/app/tags/list?n=2&last=c",
			body: `{"name":"acme/app","tags":["latest"]}`,
		},
		"behind the last": {path: "/v2/acme/app/tags/list?last=zzz", body: `{"name":"acme/app","tags":[]}`},
		"none":            {path: "/v2/acme/app/tags/list?n=0", body: `{"name":"acme/app","tags":[]}`},
		"less than none":  {path: "/v2/acme/app/tags/list?n=-5", body: `{"name":"acme/app","tags":[]}`},
		"no number": {
			path: "/v2/acme/app/tags/list?n=abc",
			body: `{"name":"acme/app","tags":["1.0","a","b","c","latest"]}`,
		},
		"the catalog": {
			who:  "admin",
			path: "/v2/_catalog",
			body: `{"repositories":["acme/app","acme/secret","bob/app","carol"]}`,
		},
		"a page of it": {
			who:  "admin",
			path: "/v2/_catalog?n=1",
			body: `{"repositories":["acme/app"]}`,
			link: link + `/v2/_catalog?n=1&last=acme%2Fapp>; rel="next"`,
		},
		"what others see": {
			who:  "carol",
			path: "/v2/_catalog",
			body: `{"repositories":["acme/app","bob/app","carol"]}`,
		},
		"what its owner sees": {
			who:  "acme",
			path: "/v2/_catalog",
			body: `{"repositories":["acme/app","acme/secret","bob/app"]}`,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if a := w.expect(request{as: tt.who, path: tt.path}, http.StatusOK); a.body != tt.body ||
				a.header.Get("Link") != tt.link {
				t.Errorf("%s\n%s\nwant %s\n%s", a.body, a.header.Get("Link"), tt.body, tt.link)
			}
		})
	}
}

// TestGoContainerRegistryAsClient pushes, lists, pulls and deletes with somebody else's client, which gets its tokens
// itself.
func TestGoContainerRegistryAsClient(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	server := httptest.NewUnstartedServer(nil)
	host := server.Listener.Addr().String()
	w.options.PublicURL = &url.URL{Scheme: "http", Host: host} // where the client is sent for tokens
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
