package api_test

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
)

func TestContentIsFilteredByVersion(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	version := func(n int64) string { return pulp.VersionHref(pulp.ContainerPush, w.repo.Repository.ID, n) }
	for path, want := range map[string]int{
		"tags/?repository_version=" + version(0):                                                                       0,
		"tags/?repository_version=" + version(2):                                                                       2,
		"tags/?repository_version_added=" + version(2):                                                                 1,
		"tags/?repository_version_removed=" + version(2):                                                               0,
		"manifests/?repository_version=" + version(1):                                                                  1,
		"manifests/?repository_version=" + version(4):                                                                  5,
		"manifests/?repository_version_added=" + version(4):                                                            3,
		"blobs/?repository_version=" + version(4):                                                                      8,
		"signatures/?repository_version=" + version(4):                                                                 0,
		"signatures/?repository_version=" + version(5):                                                                 1,
		"signatures/?repository_version_added=" + version(6):                                                           1,
		"signatures/?repository_version=" + pulp.VersionPRN(w.signed.ID):                                               1,
		"signatures/?manifest=" + string(w.manifest):                                                                   2,
		"signatures/?manifest=sha256:0":                                                                                0,
		"signatures/?key_id=D1B86E06B4D88886&name__contains=@":                                                         2,
		"signatures/?key_id__in=0000,D1B86E06B4D88886":                                                                 2,
		"tags/?media_type=" + url.QueryEscape(pulp.OCIIndex):                                                           1,
		"tags/?digest=" + string(w.manifest):                                                                           2,
		"tags/?name__in=latest,2.0,zzz":                                                                                2,
		"manifests/?media_type=" + url.QueryEscape(pulp.OCIIndex) + "&media_type=" + url.QueryEscape(pulp.OCIManifest): 5,
		"manifests/?is_bootable=true":                                                                                  0,
		"manifests/?is_flatpak=false":                                                                                  5,
		"manifests/?digest=" + string(w.manifest):                                                                      1,
		"blobs/?digest__in=" + string(w.manifest):                                                                      0,
		"blobs/?pulp_label_select=a":                                                                                   0,
		"blobs/?pulp_label_select=" + url.QueryEscape("!a"):                                                            8,
	} {
		t.Run(path, func(t *testing.T) {
			if got := len(w.results("content/container/"+path, "pulp_href")); got != want {
				t.Errorf("%d, want %d", got, want)
			}
		})
	}
}

// TestSummariesCountTheirLists proves that the list behind every href of a content summary has the counted length.
func TestSummariesCountTheirLists(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if _, err := w.store.Content.DeleteManifest(t.Context(), w.repo.Repository.ID, w.manifest); err != nil {
		t.Fatal(err)
	}
	followed := 0
	for _, v := range w.get(w.repoHref() + "versions/")["results"].([]any) {
		for relation, kinds := range v.(map[string]any)["content_summary"].(map[string]any) {
			for kind, n := range kinds.(map[string]any) {
				entry := n.(map[string]any)
				if got := w.get(entry["href"].(string))["count"]; got != entry["count"] {
					t.Errorf(
						"version %v, %s %s: count %v, listed %v", v.(map[string]any)["number"], relation, kind, entry["count"], got,
					)
				}
				followed++
			}
		}
	}
	if followed < 15 {
		t.Errorf("only %d summaries", followed)
	}
}

func TestContentBetweenVersions(t *testing.T) {
	t.Parallel()
	m := newMirrors(t)
	if _, err := m.store.Content.Untag(t.Context(), nil, m.full.ID, "multi"); err != nil {
		t.Fatal(err)
	}
	if _, err := m.store.Content.TagManifest(t.Context(), nil, m.full.ID, "new", m.manifest); err != nil {
		t.Fatal(err)
	}
	v := func(n string) string { return href(m.full) + "versions/" + n + "/" }
	for filter, want := range map[string][]string{
		"added_between=" + v("1") + "," + v("3"):   {"new"},
		"added_between=" + v("3") + "," + v("1"):   {"multi"},
		"removed_between=" + v("1") + "," + v("3"): {"multi"},
		"removed_between=" + v("0") + "," + v("3"): {},
		"added_between=": {"1.0", "2.0", "latest", "multi", "new"},
	} {
		if got := m.results(pulp.TagCollection+"?ordering=name&"+filter, "name"); !cmp.Equal(got, want) {
			t.Errorf("%s: %v, want %v", filter, got, want)
		}
	}
	for filter, want := range map[string]string{
		"added_between=" + v("1"):                  `{"added_between":["Range query expects two values."]}`,
		"removed_between=" + v("1") + "," + v("7"): `["URI ` + v("7") + ` not found for repositoryversion."]`,
		"removed_between=a,b":                      `["URI not valid: b"]`,
	} {
		m.expect(call{path: pulp.TagCollection + "?" + filter}, 400, want)
	}
}

// TestAnIndexHasTheNatureOfItsImages proves that an index is bootable or a flatpak if an image in it is, at any
// depth: in its JSON form, in filters and in orderings, for administrators and for other users.
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

// TestPartsRevealNoPrivateContent proves that an index, and an image with a foreign layer, that refer to digests of
// another account's private content show no more than those that refer to unknown digests.
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
