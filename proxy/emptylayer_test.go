package proxy_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/proxy"
)

// emptyImage pushes an image whose layer is the empty one, of which nothing was uploaded, and returns the digest of
// its manifest.
func (w *world) emptyImage(name, tag string) digest.Digest {
	w.t.Helper()
	config := w.pushBlob(name, `{"architecture":"amd64","os":"linux"}`)
	payload := fmt.Sprintf(
		`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.docker.container.image.v1+json","size":37,"digest":%q},`+
			`"layers":[{"mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip","size":32,"digest":%q}]}`,
		pulp.DockerManifest,
		config,
		pulp.EmptyLayer,
	)
	w.expect(manifestPut("/v2/"+name+"/manifests/"+tag, payload, pulp.DockerManifest), http.StatusCreated)
	return digest.FromString(payload)
}

// The empty layer is there for everybody who may pull from a repository, although nobody has uploaded it, and may be
// part of a manifest.
func TestEmptyLayer(t *testing.T) {
	t.Parallel()
	for title, limit := range map[string]int64{"in the database": 16 << 10, "in the storage": 0} {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, func(o *proxy.Options) { o.InlineLimit = limit })
			w.pushBlob("acme/app", "makes the repository")
			const blob = "/v2/acme/app/blobs/" + string(pulp.EmptyLayer)
			content := pulp.EmptyLayerContent()
			w.wantBlob("acme/app", pulp.EmptyLayer, content)
			if a := w.expect(request{as: "admin", method: http.MethodHead, path: blob}, http.StatusOK); a.header.Get(
				"Content-Length",
			) != "32" {
				t.Errorf("HEAD answers %v", a.header)
			}
			if a := w.expect(request{path: blob, headers: []string{"Range", "bytes=0-1"}}, http.StatusPartialContent); a.body != "\x1f\x8b" {
				t.Errorf("a range is %q", a.body)
			}
			w.emptyImage("acme/app", "v1")
			w.wantBlob("acme/app", pulp.EmptyLayer, content)
			target, err := w.store.Serving.Resolve(t.Context(), "acme/app")
			if err != nil {
				t.Fatal(err)
			}
			if b, err := w.store.Serving.ServedBlob(t.Context(), target, pulp.EmptyLayer); err != nil ||
				b.Size != 32 { // the version holds all that its image names
				t.Errorf("the blob in the repository: %+v, %v", b, err)
			}
			w.expectError(request{as: "admin", method: http.MethodDelete, path: blob}, http.StatusConflict, "DENIED")

			a := w.expect(
				request{
					as:     "admin",
					method: http.MethodPost,
					path:   "/v2/acme/other/blobs/uploads/?mount=" + string(pulp.EmptyLayer) + "&from=acme/none",
				},
				http.StatusCreated,
			)
			if a.header.Get("Docker-Content-Digest") != string(pulp.EmptyLayer) {
				t.Errorf("a mount answers %v", a.header)
			}
			w.private("acme/app")
			w.expectError(request{path: blob}, http.StatusUnauthorized, "UNAUTHORIZED")
			w.expect(request{as: "carol", method: http.MethodHead, path: blob}, http.StatusUnauthorized)
		})
	}
}

// In front of an upstream the empty layer is uploaded there before a manifest that names it, also when the upstream
// has lost it since.
func TestEmptyLayerBeforeAnUpstream(t *testing.T) {
	t.Parallel()
	w, b := newFront(t)
	w.pushBlob("acme/app", "makes the repository")
	w.wantBlob("acme/app", pulp.EmptyLayer, pulp.EmptyLayerContent())
	upstreamHas := func() bool {
		t.Helper()
		response, err := http.Head(b.url + "/v2/acme/app/blobs/" + string(pulp.EmptyLayer))
		if err != nil {
			t.Fatal(err)
		}
		return response.Body.Close() == nil && response.StatusCode == http.StatusOK
	}
	if upstreamHas() {
		t.Fatal("the upstream has the empty layer by itself: the test says nothing")
	}
	image := w.emptyImage("acme/app", "v1")
	if !upstreamHas() {
		t.Error("the upstream has not the empty layer")
	}
	response, err := http.Head(b.url + "/v2/acme/app/manifests/" + string(image))
	if err != nil {
		t.Fatal(err)
	}
	if err := response.Body.Close(); err != nil || response.StatusCode != http.StatusOK {
		t.Errorf("the upstream's manifest: %d, %v", response.StatusCode, err)
	}
	if err := w.options.Storage.Delete(t.Context(), "acme/app", pulp.EmptyLayer); err != nil {
		t.Fatal(err)
	}
	w.emptyImage("acme/app", "v2")
	if !upstreamHas() {
		t.Error("the upstream has not got the empty layer back")
	}
	w.expect(
		request{
			as:     "admin",
			method: http.MethodPost,
			path:   "/v2/acme/other/blobs/uploads/?mount=" + string(pulp.EmptyLayer),
		},
		http.StatusCreated,
	)
	w.wantBlob("acme/other", pulp.EmptyLayer, pulp.EmptyLayerContent())
}

// An image that an upstream shows without having the empty layer is adopted all the same; others wait for nothing.
func TestEmptyLayerIsAdopted(t *testing.T) {
	t.Parallel()
	a := newAdopting(t)
	config, layer := `{"architecture":"amd64","os":"linux"}`, a.pushDirectly(
		"company/old",
		string(pulp.EmptyLayerContent()),
	)
	m := fmt.Sprintf(
		`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[{"mediaType":%q,"digest":%q,"size":32}]}`,
		pulp.OCIManifest,
		a.pushDirectly("company/old", config),
		len(config),
		layerType,
		layer,
	)
	a.direct(http.StatusCreated, http.MethodPut, a.upstream+"/v2/company/old/manifests/v1", pulp.OCIManifest, m)
	a.loses = pulp.EmptyLayer
	a.expect(request{as: "admin", path: "/v2/company/old/manifests/v1"}, http.StatusOK)
	got := a.expect(request{as: "admin", path: "/v2/company/old/blobs/" + string(pulp.EmptyLayer)}, http.StatusOK)
	if got.body != string(pulp.EmptyLayerContent()) {
		t.Errorf("the empty layer is %q", got.body)
	}
}
