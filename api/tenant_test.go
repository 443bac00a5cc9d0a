package api_test

import (
	"fmt"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
)

// TestPartsRevealNoPrivateContent proves that an index, and an image with a foreign layer, that refer to digests of another
// account's private content show no more than those that refer to unknown digests.
func TestPartsRevealNoPrivateContent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	private := w.target("acme/secret")
	bootable := pulp.Manifest{MediaType: pulp.OCIManifest, Payload: []byte("bootable"), Type: "bootable"}
	config := w.blob(private, "secret config")
	bootable.Config = &config
	there := w.put(private, bootable, "v1")
	layer := w.blob(private, "secret layer")
	w.pushImage(private, "holder of the layer", "amd64", "v2")
	w.hide("acme/secret")

	own := w.target("carol/own")
	shown := func(child digest.Digest, foreign pulp.Descriptor) string {
		index := w.pushIndex(own, []digest.Digest{child}, "index")
		foreign.URLs = []string{"https://elsewhere.example/layer"}
		owned := w.blob(own, "own config")
		image := w.put(own, pulp.Manifest{
			MediaType: pulp.OCIManifest, Payload: []byte(
				"foreign " + foreign.Digest,
			), Type: "image", Config: &owned, Layers: []pulp.Descriptor{foreign},
		}, "image")
		text := ""
		for _, d := range []digest.Digest{index, image} {
			r := w.do(call{path: "content/container/manifests/?digest=" + string(d), user: "carol"})
			results := r.body.(map[string]any)["results"].([]any)
			if len(results) != 1 {
				t.Fatalf("carol sees %d manifests with the digest of her own: %s", len(results), r.raw)
			}
			for _, field := range []string{"listed_manifests", "blobs", "is_bootable", "is_flatpak", "type"} {
				text += fmt.Sprintln(field, results[0].(map[string]any)[field])
			}
		}
		for _, filter := range []string{"is_bootable=true", "is_flatpak=true"} {
			r := w.do(call{path: "content/container/manifests/?" + filter, user: "carol"})
			text += fmt.Sprintln(filter, r.body.(map[string]any)["count"])
		}
		return text
	}
	absent := shown(
		digest.FromString("nobody has this manifest"),
		pulp.Descriptor{Digest: digest.FromString("nobody has this layer"), Size: 1},
	)
	if got := shown(there, layer); got != absent {
		t.Errorf("with content of another account carol sees\n%s\nwith unknown digests\n%s", got, absent)
	}
	// The user's own content is shown.
	if r := w.do(
		call{
			path: "content/container/manifests/?digest=" + string(
				w.pushIndex(own, []digest.Digest{w.pushImage(own, "hers", "amd64")}, "hers"),
			),
			user: "carol",
		},
	); len(r.body.(map[string]any)["results"].([]any)[0].(map[string]any)["listed_manifests"].([]any)) != 1 {
		t.Errorf("carol does not see the image in her own index: %s", r.raw)
	}
}
