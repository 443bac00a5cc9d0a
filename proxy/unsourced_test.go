package proxy_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
)

// TestAPushRestoresABlobWithoutSource checks that a blob that no remote has is unknown to GET and HEAD, so that
// clients push it, that a manifest that references it is rejected, and that every kind of push makes the blob
// available.
func TestAPushRestoresABlobWithoutSource(t *testing.T) {
	t.Parallel()
	for name, push := range map[string]func(w *world, d digest.Digest, layer []byte){
		"at once": func(w *world, d digest.Digest, layer []byte) {
			w.expect(request{as: "admin", method: http.MethodPost, path: "/v2/mirror/app/blobs/uploads/?digest=" + string(d), body: layer}, http.StatusCreated)
		},
		"in chunks": func(w *world, d digest.Digest, layer []byte) {
			location := w.expect(request{as: "admin", method: http.MethodPost, path: "/v2/mirror/app/blobs/uploads/"}, http.StatusAccepted).header.Get("Location")
			w.expect(request{as: "admin", method: http.MethodPatch, path: location, body: layer[:len(layer)/2]}, http.StatusAccepted)
			w.expect(request{as: "admin", method: http.MethodPut, path: location + "?digest=" + string(d), body: layer[len(layer)/2:]}, http.StatusCreated)
		},
		"mounted": func(w *world, d digest.Digest, layer []byte) {
			w.expect(request{as: "admin", method: http.MethodPost, path: "/v2/other/app/blobs/uploads/?digest=" + string(d), body: layer}, http.StatusCreated)
			w.expect(request{as: "admin", method: http.MethodPost, path: "/v2/mirror/app/blobs/uploads/?mount=" + string(d) + "&from=other/app"}, http.StatusCreated)
		},
		"mounted from anywhere": func(w *world, d digest.Digest, layer []byte) {
			w.expect(request{as: "admin", method: http.MethodPost, path: "/v2/other/app/blobs/uploads/?digest=" + string(d), body: layer}, http.StatusCreated)
			w.expect(request{as: "admin", method: http.MethodPost, path: "/v2/mirror/app/blobs/uploads/?mount=" + string(d)}, http.StatusCreated)
		},
	} {
		for _, size := range []int{3000, 100_000} { // in the database, in the storage
			t.Run(fmt.Sprint(name, " ", size), func(t *testing.T) {
				t.Parallel()
				layer := random(size, 51)
				w, m, d, _ := newMirroredWorld(
					t,
					layer,
					pulp.OnDemand,
					func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(layer) },
				)
				path, image := "/v2/mirror/app/blobs/"+string(
					d,
				), w.expect(
					request{path: "/v2/mirror/app/manifests/latest"},
					http.StatusOK,
				).body
				w.expect(request{method: http.MethodHead, path: path}, http.StatusOK)
				w.removeRemote("app")
				w.expect(request{method: http.MethodHead, path: path}, http.StatusNotFound)
				w.expectError(request{path: path}, http.StatusNotFound, "BLOB_UNKNOWN")
				w.expectError(
					request{path: path, headers: []string{"Range", "bytes=0-1"}},
					http.StatusNotFound,
					"BLOB_UNKNOWN",
				)
				a := w.expectError(
					manifestPut("/v2/mirror/app/manifests/pushed", image, pulp.OCIManifest),
					http.StatusBadRequest,
					"MANIFEST_BLOB_UNKNOWN",
				)
				if !strings.Contains(a.body, string(d)) {
					t.Errorf("the refusal does not name the layer: %s", a.body)
				}
				push(w, d, layer)
				w.expect(request{method: http.MethodHead, path: path}, http.StatusOK)
				w.expect(manifestPut("/v2/mirror/app/manifests/pushed", image, pulp.OCIManifest), http.StatusCreated)
				w.wantBlob("mirror/app", d, layer)
				w.expect(request{path: "/v2/mirror/app/manifests/" + string(m)}, http.StatusOK)
			})
		}
	}
}

// TestARemoteThatLostABlob checks that a remote that responded 404 for a blob is not asked again for a while, until
// the remote changes, and that HEAD responds 404 meanwhile. Other failures do not make the blob unknown.
func TestARemoteThatLostABlob(t *testing.T) {
	t.Parallel()
	for _, policy := range []pulp.Policy{pulp.OnDemand, pulp.Streamed} {
		t.Run(string(policy), func(t *testing.T) {
			t.Parallel()
			layer := random(100_000, 52)
			var answer atomic.Int64
			w, _, d, asked := newMirroredWorld(t, layer, policy, func(w http.ResponseWriter, _ *http.Request) {
				if status := int(answer.Load()); status != 0 {
					w.WriteHeader(status)
					return
				}
				_, _ = w.Write(layer)
			})
			path := "/v2/mirror/app/blobs/" + string(d)
			for _, status := range []int{http.StatusForbidden, http.StatusBadGateway} {
				answer.Store(int64(status))
				w.expectError(request{path: path}, http.StatusServiceUnavailable, "UNAVAILABLE")
				w.expect(request{method: http.MethodHead, path: path}, http.StatusOK)
			}
			for _, status := range []int{http.StatusNotFound, http.StatusGone} {
				answer.Store(int64(status))
				for range 3 {
					w.expectError(request{path: path}, http.StatusNotFound, "BLOB_UNKNOWN")
					w.expect(request{method: http.MethodHead, path: path}, http.StatusNotFound)
				}
				w.editRemote(func(r *pulp.Remote) { one := int64(status); r.Connection.RateLimit = &one })
				w.expect(request{method: http.MethodHead, path: path}, http.StatusOK)
			}
			if n := asked.Load(); n != 4 {
				t.Errorf("the remote was asked %d times, want 4", n)
			}
			answer.Store(0)
			w.wantBlob("mirror/app", d, layer)
		})
	}
}

// TestSeveralRemotesOfABlob checks that one request gets a blob from whichever of several remotes has it.
func TestSeveralRemotesOfABlob(t *testing.T) {
	t.Parallel()
	layer := random(100_000, 53)
	for name, fails := range map[string]http.HandlerFunc{
		"lacks it": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) },
		"is down":  func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) },
	} {
		for _, policy := range []pulp.Policy{pulp.OnDemand, pulp.Streamed} {
			t.Run(name+" "+string(policy), func(t *testing.T) {
				t.Parallel()
				w, _, d, asked := newMirroredWorld(
					t,
					layer,
					policy,
					func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(layer) },
				)
				_, others := w.addMirror("other", policy, fails, random(10, 54))
				target, err := w.store.Serving.Resolve(t.Context(), "mirror/app")
				if err != nil {
					t.Fatal(err)
				}
				w.addSyncedImage(target.Repository, w.remote("other"), layer) // now the first remote to try
				w.wantBlob("mirror/app", d, layer)
				if asked.Load() != 1 || others.Load() != 1 {
					t.Errorf("asked %d and %d times", asked.Load(), others.Load())
				}
				if policy == pulp.Streamed {
					w.wantBlob("mirror/app", d, layer)
					if others.Load() != 1 {
						t.Error("the remote that fails was asked first again")
					}
					w.removeRemote("app")
					w.expect(
						request{method: http.MethodHead, path: "/v2/mirror/app/blobs/" + string(d)},
						map[string]int{"lacks it": http.StatusNotFound, "is down": http.StatusOK}[name],
					)
				}
			})
		}
	}
}

// TestClaimsGrantNoAccess checks that a claim on an absent blob grants no access to the same blob in another
// repository: not after its remote is deleted, not by a mount, and not through the labels of a pushed image with it
// as config.
func TestClaimsGrantNoAccess(t *testing.T) {
	t.Parallel()
	secret := []byte(
		`{"architecture":"amd64","os":"linux","config":{"Labels":{"secret":"yes"}},"pad":"` + strings.Repeat(
			"x",
			20_000,
		) + `"}`,
	)
	for name, gone := range map[string]bool{"remote lacks it": false, "remote is gone": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, _, d, _ := newMirroredWorld(
				t,
				secret,
				pulp.OnDemand,
				func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) },
			)
			w.expect(
				request{
					as:     "acme",
					method: http.MethodPost,
					path:   "/v2/acme/app/blobs/uploads/?digest=" + string(d),
					body:   secret,
				},
				http.StatusCreated,
			)
			w.setPrivate("acme/app")
			w.options.PushToMirrors = true
			w.restart()
			if gone {
				w.removeRemote("app")
			}
			path := "/v2/mirror/app/"
			m := fmt.Sprintf(
				`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[]}`,
				pulp.OCIManifest,
				d,
				len(secret),
			)
			w.expectError(
				manifestPut(path+"manifests/x", m, pulp.OCIManifest),
				http.StatusBadRequest,
				"MANIFEST_BLOB_UNKNOWN",
			)
			w.expectError(request{path: path + "blobs/" + string(d)}, http.StatusNotFound, "BLOB_UNKNOWN")
			w.expect(request{method: http.MethodHead, path: path + "blobs/" + string(d)}, http.StatusNotFound)
			w.expect(
				request{
					as:     "carol",
					method: http.MethodPost,
					path:   "/v2/carol/app/blobs/uploads/?from=mirror/app&mount=" + string(d),
				},
				http.StatusAccepted,
			)
		})
	}
}

// TestAbsentConfig checks that the labels of an image are read from its absent config, which is fetched from the
// remote.
func TestAbsentConfig(t *testing.T) {
	t.Parallel()
	config := []byte(`{"architecture":"riscv64","os":"linux","pad":"` + strings.Repeat("x", 20_000) + `"}`)
	w, _, d, _ := newMirroredWorld(
		t,
		config,
		pulp.OnDemand,
		func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(config) },
	)
	w.options.PushToMirrors = true
	w.restart()
	m := fmt.Sprintf(
		`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[]}`,
		pulp.OCIManifest,
		d,
		len(config),
	)
	w.expect(manifestPut("/v2/mirror/app/manifests/x", m, pulp.OCIManifest), http.StatusCreated)
	target, err := w.store.Serving.Resolve(t.Context(), "mirror/app")
	if err != nil {
		t.Fatal(err)
	}
	got, err := w.store.Serving.ServedManifest(t.Context(), target, "x")
	if err != nil || got.Architecture == nil || *got.Architecture != "riscv64" {
		t.Errorf("%+v, %v", got.Architecture, err)
	}
}
