package api_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
)

// TestAnIndexHasTheNatureOfItsImages proves that an index is bootable or a flatpak if an image in it is, at any depth: in its
// JSON form, in filters and in orderings, for administrators and for other users.
func TestAnIndexHasTheNatureOfItsImages(t *testing.T) {
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
	type nature struct{ bootable, flatpak bool }
	isPlain, isBootable, isFlatpak := nature{}, nature{bootable: true}, nature{flatpak: true}
	all := map[digest.Digest]nature{
		plain: isPlain, boot: isBootable, flat: isFlatpak,
		bootIndex: isBootable, nested: isBootable, flatIndex: isFlatpak, plainIndex: isPlain,
	}
	for _, user := range []string{"admin", "acme"} {
		list := func(query string) map[digest.Digest]nature {
			t.Helper()
			r := w.do(call{path: "content/container/manifests/" + query, user: user})
			found := map[digest.Digest]nature{}
			for _, m := range r.body.(map[string]any)["results"].([]any) {
				m := m.(map[string]any)
				found[digest.Digest(
					m["digest"].(string),
				)] = nature{bootable: m["is_bootable"].(bool), flatpak: m["is_flatpak"].(bool)}
			}
			return found
		}
		want := func(query string, natures ...nature) {
			t.Helper()
			want := maps.Clone(all)
			maps.DeleteFunc(want, func(_ digest.Digest, n nature) bool { return !slices.Contains(natures, n) })
			got := list(query)
			maps.DeleteFunc(got, func(d digest.Digest, _ nature) bool { _, ours := all[d]; return !ours })
			if !maps.Equal(got, want) {
				t.Errorf("%s, %q: %v, want %v", user, query, got, want)
			}
		}
		want("", isPlain, isBootable, isFlatpak)
		want("?is_bootable=true", isBootable)
		want("?is_flatpak=true", isFlatpak)
		want("?is_bootable=false&is_flatpak=false", isPlain)
		want("?is_bootable=true&ordering=is_flatpak,-is_bootable", isBootable)
	}
}
