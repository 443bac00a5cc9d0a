package list_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/internal/store/storetest"
)

// putManifest pushes a manifest under a tag.
func putManifest(t *testing.T, s *store.Store, repositoryID, tag string, m pulp.Manifest) {
	t.Helper()
	_, err := s.Content.PutManifest(t.Context(), content.PutManifest{RepositoryID: repositoryID, Manifest: m, Tags: []string{tag}})
	if err != nil {
		t.Fatal(err)
	}
}

// blobID returns the id of a blob.
func blobID(t *testing.T, s *store.Store, d digest.Digest) string {
	t.Helper()
	ids, _ := rowsOf(t, s.Lists.Blobs, func(b pulp.Blob) string { return b.ID },
		list.Query{Where: []list.Filter{list.Where("digest", list.Equal, string(d))}})
	if len(ids) != 1 {
		t.Fatalf("%d blobs have the digest %s", len(ids), d)
	}
	return ids[0]
}

// TestManifestParts proves that parts are in order, without duplicates and without absent content.
func TestManifestParts(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	id := storetest.Target(t, s, "a/b").Repository.ID
	both, layer := storetest.PushBlob(t, s, id, "both"), storetest.PushBlob(t, s, id, "layer")
	image := storetest.Image(both, layer)
	image.Layers = []pulp.Descriptor{
		layer, both, layer, {Digest: digest.FromString("foreign"), URLs: []string{"https://elsewhere.example/"}},
	}
	index := storetest.Index(pulp.Manifest{Digest: digest.FromString("absent"), MediaType: pulp.OCIManifest}, image)
	putManifest(t, s, id, "image", image)
	putManifest(t, s, id, "index", index)
	imageID, indexID := contentID(t, s, image), contentID(t, s, index)
	ofImage := list.ManifestParts{Config: blobID(t, s, both.Digest), Layers: []string{blobID(t, s, layer.Digest), blobID(t, s, both.Digest)}}
	ofIndex := list.ManifestParts{Children: []string{imageID}}
	for name, tt := range map[string]struct {
		blobs, children bool
		want            map[string]list.ManifestParts
	}{
		"all":      {blobs: true, children: true, want: map[string]list.ManifestParts{imageID: ofImage, indexID: ofIndex}},
		"blobs":    {blobs: true, want: map[string]list.ManifestParts{imageID: ofImage}},
		"children": {children: true, want: map[string]list.ManifestParts{indexID: ofIndex}},
		"none":     {want: map[string]list.ManifestParts{}},
	} {
		parts, err := s.Lists.ManifestParts(t.Context(), []string{imageID, indexID}, nil, tt.blobs, tt.children)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, parts); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	found, _, err := s.Lists.Manifests(t.Context(), list.Query{Limit: 10})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range found {
		if len(m.Payload) != 0 {
			t.Errorf("the listed manifest %s has its payload", m.Digest)
		}
	}
}

// TestPartsOfOthers proves that an index in a public repository reveals no part or nature of an image that the viewer does
// not see.
func TestPartsOfOthers(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	private, public := storetest.Target(t, s, "acme/private").Repository, storetest.Target(t, s, "carol/public").Repository
	if err := s.Catalog.SetPrivate(t.Context(), "acme/private", true); err != nil {
		t.Fatal(err)
	}
	image := storetest.Image(storetest.PushBlob(t, s, private.ID, "config"), storetest.PushBlob(t, s, private.ID, "layer"))
	image.Type = "flatpak"
	putManifest(t, s, private.ID, "v1", image)
	index := storetest.Index(image)
	putManifest(t, s, public.ID, "v1", index)
	indexID := contentID(t, s, index)
	for name, sees := range map[string]bool{"": true, "acme": true, "carol": false} {
		viewer := storetest.ViewerOf(t, s, name)
		parts, err := s.Lists.ManifestParts(t.Context(), []string{indexID}, viewer, true, true)
		if err != nil || (len(parts[indexID].Children) == 1) != sees {
			t.Errorf("ManifestParts for %q = %+v, %v, want the image: %t", name, parts, err, sees)
		}
		natures, err := s.Lists.ManifestNatures(t.Context(), []string{indexID}, viewer)
		if err != nil || natures[indexID] != (list.Nature{Flatpak: sees}) {
			t.Errorf("ManifestNatures for %q = %+v, %v, want flatpak: %t", name, natures, err, sees)
		}
		where := []list.Filter{list.Where("is_flatpak", list.Equal, true), list.Where("type", list.Equal, "index")}
		if viewer != nil {
			where = append(where, list.VisibleTo(viewer))
		}
		got, _ := rowsOf(t, s.Lists.Manifests, func(m list.ListedManifest) string { return m.ID }, list.Query{Where: where})
		if slices.Contains(got, indexID) != sees {
			t.Errorf("the filter is_flatpak for %q selects %v, want the index: %t", name, got, sees)
		}
	}
}

// TestManifestNatures proves that an index has the natures of the images that it lists at any depth.
func TestManifestNatures(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	id := storetest.Target(t, s, "a/b").Repository.ID
	pushed := map[string]pulp.Manifest{}
	for _, kind := range []string{"image", "bootable", "flatpak"} {
		m := storetest.Image(storetest.PushBlob(t, s, id, "config "+kind), storetest.PushBlob(t, s, id, "layer "+kind))
		m.Type = kind
		putManifest(t, s, id, kind, m)
		pushed[kind] = m
	}
	pushed["index of images"] = storetest.Index(pushed["image"])
	pushed["index of both"] = storetest.Index(pushed["bootable"], pushed["flatpak"])
	pushed["nested index"] = storetest.Index(pushed["index of both"], pushed["image"])
	ids := map[string]string{}
	for _, name := range []string{"index of images", "index of both", "nested index"} {
		putManifest(t, s, id, "latest", pushed[name])
	}
	for name, m := range pushed {
		ids[name] = contentID(t, s, m)
	}
	natures, err := s.Lists.ManifestNatures(t.Context(), []string{
		ids["image"], ids["bootable"], ids["flatpak"], ids["index of images"], ids["index of both"], ids["nested index"],
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]list.Nature{
		"image": {}, "bootable": {Bootable: true}, "flatpak": {Flatpak: true}, "index of images": {},
		"index of both": {Bootable: true, Flatpak: true}, "nested index": {Bootable: true, Flatpak: true},
	} {
		if got := natures[ids[name]]; got != want {
			t.Errorf("the nature of %s is %+v, want %+v", name, got, want)
		}
	}
}
