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

// A blob that no remote has any more is unknown to GET and HEAD, as push clients ask; a manifest that refers to it is refused; and each way of pushing the blob makes it a blob like others.
// Before, HEAD said 200, so that a push skipped the layer and ended with an image that nobody could pull.
func TestAPushRestoresABlobWithoutSource(t *testing.T) {
	t.Parallel()
	for name, push := range map[string]func(w *world, d digest.Digest, layer []byte){
		"at once": func(w *world, d digest.Digest, layer []byte) {
			w.want(http.StatusCreated, "", "admin", http.MethodPost, "/v2/mirror/app/blobs/uploads/?digest="+string(d), layer)
		},
		"in chunks": func(w *world, d digest.Digest, layer []byte) {
			location := w.want(http.StatusAccepted, "", "admin", http.MethodPost, "/v2/mirror/app/blobs/uploads/", nil).header.Get("Location")
			w.want(http.StatusAccepted, "", "admin", http.MethodPatch, location, layer[:len(layer)/2])
			w.want(http.StatusCreated, "", "admin", http.MethodPut, location+"?digest="+string(d), layer[len(layer)/2:])
		},
		"mounted": func(w *world, d digest.Digest, layer []byte) {
			w.want(http.StatusCreated, "", "admin", http.MethodPost, "/v2/other/app/blobs/uploads/?digest="+string(d), layer)
			w.want(http.StatusCreated, "", "admin", http.MethodPost, "/v2/mirror/app/blobs/uploads/?mount="+string(d)+"&from=other/app", nil)
		},
		"mounted from anywhere": func(w *world, d digest.Digest, layer []byte) {
			w.want(http.StatusCreated, "", "admin", http.MethodPost, "/v2/other/app/blobs/uploads/?digest="+string(d), layer)
			w.want(http.StatusCreated, "", "admin", http.MethodPost, "/v2/mirror/app/blobs/uploads/?mount="+string(d), nil)
		},
	} {
		for _, size := range []int{3000, 100_000} { // in the database, in the storage
			t.Run(fmt.Sprint(name, " ", size), func(t *testing.T) {
				t.Parallel()
				layer := random(size, 51)
				w, m, d, _ := mirrored(t, layer, pulp.OnDemand, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(layer) })
				path, image := "/v2/mirror/app/blobs/"+string(d), w.want(http.StatusOK, "", "", http.MethodGet, "/v2/mirror/app/manifests/latest", nil).body
				w.want(http.StatusOK, "", "", http.MethodHead, path, nil)
				w.removeRemote("app")
				w.want(http.StatusNotFound, "", "", http.MethodHead, path, nil)
				w.want(http.StatusNotFound, "BLOB_UNKNOWN", "", http.MethodGet, path, nil)
				w.want(http.StatusNotFound, "BLOB_UNKNOWN", "", http.MethodGet, path, nil, "Range", "bytes=0-1")
				a := w.want(http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN", "admin", http.MethodPut, "/v2/mirror/app/manifests/pushed", image, "Content-Type", pulp.OCIManifest)
				if !strings.Contains(a.body, string(d)) {
					t.Errorf("the refusal does not name the layer: %s", a.body)
				}
				push(w, d, layer)
				w.want(http.StatusOK, "", "", http.MethodHead, path, nil)
				w.want(http.StatusCreated, "", "admin", http.MethodPut, "/v2/mirror/app/manifests/pushed", image, "Content-Type", pulp.OCIManifest)
				w.wantBlob("mirror/app", d, layer)
				w.want(http.StatusOK, "", "", http.MethodGet, "/v2/mirror/app/manifests/"+string(m), nil)
			})
		}
	}
}

// A remote that says it has no such blob is not asked again for a while, and HEAD says so; a change of the remote ends that. A failure of another kind does not make the blob unknown.
func TestARemoteThatLostABlob(t *testing.T) {
	t.Parallel()
	for _, policy := range []pulp.Policy{pulp.OnDemand, pulp.Streamed} {
		t.Run(string(policy), func(t *testing.T) {
			t.Parallel()
			layer := random(100_000, 52)
			var answer atomic.Int64
			w, _, d, asked := mirrored(t, layer, policy, func(w http.ResponseWriter, _ *http.Request) {
				if status := int(answer.Load()); status != 0 {
					w.WriteHeader(status)
					return
				}
				_, _ = w.Write(layer)
			})
			path := "/v2/mirror/app/blobs/" + string(d)
			for _, status := range []int{http.StatusForbidden, http.StatusBadGateway} {
				answer.Store(int64(status))
				w.want(http.StatusServiceUnavailable, "UNAVAILABLE", "", http.MethodGet, path, nil)
				w.want(http.StatusOK, "", "", http.MethodHead, path, nil)
			}
			for _, status := range []int{http.StatusNotFound, http.StatusGone} {
				answer.Store(int64(status))
				for range 3 {
					w.want(http.StatusNotFound, "BLOB_UNKNOWN", "", http.MethodGet, path, nil)
					w.want(http.StatusNotFound, "", "", http.MethodHead, path, nil)
				}
				w.editRemote(func(r *pulp.Remote) { one := int64(status); r.Connection.RateLimit = &one })
				w.want(http.StatusOK, "", "", http.MethodHead, path, nil)
			}
			if n := asked.Load(); n != 4 {
				t.Errorf("the remote was asked %d times, want 4", n)
			}
			answer.Store(0)
			w.wantBlob("mirror/app", d, layer)
		})
	}
}

// A repository that was synced from several remotes gets a blob from whichever has it, within one request.
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
				w, _, d, asked := mirrored(t, layer, policy, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(layer) })
				_, others := w.addMirror("other", policy, fails, random(10, 54))
				target, err := w.store.Serving.Resolve(t.Context(), "mirror/app")
				if err != nil {
					t.Fatal(err)
				}
				w.synced(target.Repository, w.remote("other"), layer) // from now on the first one to ask
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
					w.want(map[string]int{"lacks it": http.StatusNotFound, "is down": http.StatusOK}[name], "", "", http.MethodHead, "/v2/mirror/app/blobs/"+string(d), nil)
				}
			})
		}
	}
}

// A claim gives nobody the bytes that another tenant has of the same digest: not when its remote is gone, not by a mount, and not as the config of a pushed image, whose labels REST shows.
func TestAClaimGivesNobodyOthersBytes(t *testing.T) {
	t.Parallel()
	secret := []byte(`{"architecture":"amd64","os":"linux","config":{"Labels":{"secret":"yes"}},"pad":"` + strings.Repeat("x", 20_000) + `"}`)
	for name, gone := range map[string]bool{"remote lacks it": false, "remote is gone": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, _, d, _ := mirrored(t, secret, pulp.OnDemand, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })
			w.want(http.StatusCreated, "", "acme", http.MethodPost, "/v2/acme/app/blobs/uploads/?digest="+string(d), secret)
			w.private("acme/app")
			w.options.PushToMirrors = true
			w.restart()
			if gone {
				w.removeRemote("app")
			}
			path := "/v2/mirror/app/"
			m := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[]}`, pulp.OCIManifest, d, len(secret))
			w.want(http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN", "admin", http.MethodPut, path+"manifests/x", m, "Content-Type", pulp.OCIManifest)
			w.want(http.StatusNotFound, "BLOB_UNKNOWN", "", http.MethodGet, path+"blobs/"+string(d), nil)
			w.want(http.StatusNotFound, "", "", http.MethodHead, path+"blobs/"+string(d), nil)
			w.want(http.StatusAccepted, "", "carol", http.MethodPost, "/v2/carol/app/blobs/uploads/?from=mirror/app&mount="+string(d), nil)
		})
	}
}

// An image whose config is an absent blob that a remote has gets its labels from there.
func TestAConfigThatIsStillRemote(t *testing.T) {
	t.Parallel()
	config := []byte(`{"architecture":"riscv64","os":"linux","pad":"` + strings.Repeat("x", 20_000) + `"}`)
	w, _, d, _ := mirrored(t, config, pulp.OnDemand, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(config) })
	w.options.PushToMirrors = true
	w.restart()
	m := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[]}`, pulp.OCIManifest, d, len(config))
	w.want(http.StatusCreated, "", "admin", http.MethodPut, "/v2/mirror/app/manifests/x", m, "Content-Type", pulp.OCIManifest)
	target, err := w.store.Serving.Resolve(t.Context(), "mirror/app")
	if err != nil {
		t.Fatal(err)
	}
	got, err := w.store.Serving.ServedManifest(t.Context(), target, "x")
	if err != nil || got.Architecture == nil || *got.Architecture != "riscv64" {
		t.Errorf("%+v, %v", got.Architecture, err)
	}
}
