package proxy_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/proxy"
)

// pushEmptyImage pushes an image whose only layer is the empty layer, without uploading the layer. It returns the
// digest of the manifest.
func (w *world) pushEmptyImage(name, tag string) digest.Digest {
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

// TestEmptyLayer checks that every repository serves the empty layer without an upload, and that manifests may
// reference it. See compatibility.md#empty-layer.
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
				t.Errorf("HEAD: response %v", a.header)
			}
			if a := w.expect(request{path: blob, headers: []string{"Range", "bytes=0-1"}}, http.StatusPartialContent); a.body != "\x1f\x8b" {
				t.Errorf("a range is %q", a.body)
			}
			w.pushEmptyImage("acme/app", "v1")
			w.wantBlob("acme/app", pulp.EmptyLayer, content)
			target, err := w.store.Serving.Resolve(t.Context(), "acme/app")
			if err != nil {
				t.Fatal(err)
			}
			if b, err := w.store.Serving.ServedBlob(t.Context(), target, pulp.EmptyLayer); err != nil ||
				b.Size != 32 { // the version contains all blobs of its image
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
				t.Errorf("a mount: response %v", a.header)
			}
			w.setPrivate("acme/app")
			w.expectError(request{path: blob}, http.StatusUnauthorized, "UNAUTHORIZED")
			w.expect(request{as: "carol", method: http.MethodHead, path: blob}, http.StatusUnauthorized)
		})
	}
}

// TestEmptyLayerUpstream checks that the empty layer is uploaded to the upstream before a manifest that references
// it, and again if the upstream has lost it.
func TestEmptyLayerUpstream(t *testing.T) {
	t.Parallel()
	w, b := newUpstreamWorld(t)
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
		t.Fatal("the upstream has the empty layer without an upload: the test proves nothing")
	}
	image := w.pushEmptyImage("acme/app", "v1")
	if !upstreamHas() {
		t.Error("the upstream lacks the empty layer")
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
	w.pushEmptyImage("acme/app", "v2")
	if !upstreamHas() {
		t.Error("the upstream lacks the empty layer after the second push")
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

// TestEmptyLayerIsAdopted checks that an image is adopted from an upstream that does not have its empty layer.
func TestEmptyLayerIsAdopted(t *testing.T) {
	t.Parallel()
	a := newAdopting(t)
	config, layer := `{"architecture":"amd64","os":"linux"}`, a.pushBlobUpstream(
		"company/old",
		string(pulp.EmptyLayerContent()),
	)
	m := fmt.Sprintf(
		`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[{"mediaType":%q,"digest":%q,"size":32}]}`,
		pulp.OCIManifest,
		a.pushBlobUpstream("company/old", config),
		len(config),
		layerType,
		layer,
	)
	a.sendUpstream(http.StatusCreated, http.MethodPut, a.upstream+"/v2/company/old/manifests/v1", pulp.OCIManifest, m)
	a.lost = pulp.EmptyLayer
	a.expect(request{as: "admin", path: "/v2/company/old/manifests/v1"}, http.StatusOK)
	got := a.expect(request{as: "admin", path: "/v2/company/old/blobs/" + string(pulp.EmptyLayer)}, http.StatusOK)
	if got.body != string(pulp.EmptyLayerContent()) {
		t.Errorf("the empty layer is %q", got.body)
	}
}
