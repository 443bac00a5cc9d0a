package jobs_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/taskstore"
)

// TestSyncOfEmptyLayer syncs an image whose empty layer the remote does not have, with every policy.
func TestSyncOfEmptyLayer(t *testing.T) {
	t.Parallel()
	for _, policy := range []pulp.Policy{pulp.Immediate, pulp.OnDemand, pulp.Streamed} {
		t.Run(string(policy), func(t *testing.T) {
			t.Parallel()
			g := newRemote(t)
			config := g.blob([]byte(`{"architecture":"amd64","os":"linux"}`))
			g.blob(pulp.EmptyLayerContent()) // the upstream accepts no manifest without it
			g.manifest(pulp.OCIManifest, fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},`+
				`"layers":[{"mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip","digest":%q,"size":32}]}`, pulp.OCIManifest, config.Digest, config.Size, pulp.EmptyLayer), "latest")
			g.set(func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.HasSuffix(r.URL.Path, string(pulp.EmptyLayer)) {
					return false
				}
				w.WriteHeader(http.StatusNotFound)
				return true
			})
			w := newMirror(t, g, func(r *pulp.Remote) { r.Policy = policy })
			w.sync(taskstore.TaskCompleted, nil)
			w.wantHeld(held{version: 1, blobs: 2, manifests: 1, tags: 1})
			b, err := w.store.Serving.ServedBlob(t.Context(), w.target(), pulp.EmptyLayer)
			if err != nil || b.Absent || b.Size != 32 {
				t.Errorf("the empty layer: %+v, %v", b, err)
			}
		})
	}
}
