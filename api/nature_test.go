package api_test

import (
	"fmt"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
)

// TestIndexIsWhatItsImagesAre proves that an index counts as bootable or flatpak when an image in it is, at any depth, in its own representation and in the
// filters and orderings, for staff and for others.
func TestIndexIsWhatItsImagesAre(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	to := w.target("acme/os")
	special := func(kind string) digest.Digest {
		config := w.blob(to, "config of "+kind)
		return w.put(to, pulp.Manifest{MediaType: pulp.OCIManifest, Payload: []byte(kind), Type: kind, Config: &config}, kind)
	}
	plain := w.pushImage(to, "plain", "amd64", "plain")
	boot, flat := special("bootable"), special("flatpak")
	bootIndex := w.pushIndex(to, []digest.Digest{plain, boot}, "boot-index")
	nested := w.pushIndex(to, []digest.Digest{bootIndex}, "nested-index")
	flatIndex := w.pushIndex(to, []digest.Digest{flat}, "flat-index")
	plainIndex := w.pushIndex(to, []digest.Digest{plain, digest.FromString("nobody has this")}, "plain-index")
	all := map[digest.Digest]string{
		plain: "false false", boot: "true false", flat: "false true", bootIndex: "true false", nested: "true false", flatIndex: "false true", plainIndex: "false false",
	}
	for _, user := range []string{"admin", "acme"} {
		list := func(query string) map[digest.Digest]string {
			t.Helper()
			r := w.do(call{path: "content/container/manifests/" + query, user: user})
			found := map[digest.Digest]string{}
			for _, m := range r.body.(map[string]any)["results"].([]any) {
				m := m.(map[string]any)
				found[digest.Digest(m["digest"].(string))] = fmt.Sprint(m["is_bootable"], " ", m["is_flatpak"])
			}
			return found
		}
		want := func(query, nature string) {
			t.Helper()
			got := list(query)
			for d, is := range all {
				if listed := nature == "" || is == nature; listed != (got[d] != "") || listed && got[d] != is {
					t.Errorf("%s, %q: %s is %q, want %q", user, query, d, got[d], is)
				}
			}
		}
		want("", "")
		want("?is_bootable=true", "true false")
		want("?is_flatpak=true", "false true")
		want("?is_bootable=false&is_flatpak=false", "false false")
		want("?is_bootable=true&ordering=is_flatpak,-is_bootable", "true false")
	}
}
