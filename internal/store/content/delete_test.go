package content_test

import (
	"testing"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/storetest"
)

// TestDeleteManifestKeepsListedImages proves that deleting a manifest by digest removes its tags and keeps the manifest, with its signatures and blobs,
// while a list of the repository names it: a tagged or untagged list, a list inside another, and a pending one.
func TestDeleteManifestKeepsListedImages(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	x := fillShelf(t, s, "acme/app")
	id := x.Repository.ID
	removed := func(m pulp.Manifest, want storetest.Counts) {
		t.Helper()
		v, err := s.Content.DeleteManifest(t.Context(), id, m.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if want == (storetest.Counts{}) {
			if v != nil {
				t.Errorf("deleting a listed manifest without tags made version %+v", v)
			}
		} else {
			storetest.WantCounts(t, v, want)
		}
	}
	serves := func(m pulp.Manifest, want bool) {
		t.Helper()
		_, err := s.Serving.ServedManifest(t.Context(), x.Target, string(m.Digest))
		if err != nil && !fault.Is(err, fault.NotFound) {
			t.Fatal(err)
		}
		if served := err == nil; served != want {
			t.Errorf("%s is served: %t, want %t", m.Digest, served, want)
		}
	}
	put := func(m pulp.Manifest, tags ...string) {
		t.Helper()
		if _, err := s.Content.PutManifest(t.Context(), content.PutManifest{RepositoryID: id, Manifest: m, Tags: tags}); err != nil {
			t.Fatal(err)
		}
	}
	// The shelf: 5 blobs, 4 manifests, 1 signature, 3 tags.
	removed(x.one, storetest.Counts{
		Blobs:      pulp.Count{Present: 5},
		Manifests:  pulp.Count{Present: 4},
		Signatures: pulp.Count{Present: 1},
		Tags:       pulp.Count{Present: 2, Removed: 1},
	})
	serves(x.one, true)
	removed(x.third, storetest.Counts{})
	serves(x.third, true)

	outer := storetest.Index(x.multi)
	put(outer, "outer")
	removed(x.multi, storetest.Counts{
		Blobs:      pulp.Count{Present: 5},
		Manifests:  pulp.Count{Present: 5},
		Signatures: pulp.Count{Present: 1},
		Tags:       pulp.Count{Present: 2, Removed: 1},
	}) // its tag; the outer index names it
	removed(x.one, storetest.Counts{})
	serves(x.multi, true)
	if _, err := s.Content.DeleteTag(t.Context(), id, "outer", nil); err != nil {
		t.Fatal(err)
	}
	removed(x.one, storetest.Counts{}) // the outer index has no tag now and is in the repository
	serves(x.one, true)

	waiting := storetest.Index(x.two)
	put(waiting) // pending
	removed(x.two, storetest.Counts{
		Blobs:      pulp.Count{Present: 5},
		Manifests:  pulp.Count{Present: 5},
		Signatures: pulp.Count{Present: 1},
		Tags:       pulp.Count{Removed: 1},
	})
	serves(x.two, true)
	removed(waiting, storetest.Counts{})
	serves(waiting, false)
	removed(x.two, storetest.Counts{
		Blobs:      pulp.Count{Present: 4, Removed: 1},
		Manifests:  pulp.Count{Present: 4, Removed: 1},
		Signatures: pulp.Count{Present: 1},
	}) // nothing names it now; the shared layer stays
	serves(x.two, false)

	removed(outer, storetest.Counts{
		Blobs:      pulp.Count{Removed: 4},
		Manifests:  pulp.Count{Removed: 4},
		Signatures: pulp.Count{Removed: 1},
	}) // with everything that only it leads to
	for _, m := range []pulp.Manifest{outer, x.multi, x.one, x.third} {
		serves(m, false)
	}
	if _, err := s.Content.DeleteManifest(t.Context(), id, outer.Digest); !fault.Is(err, fault.NotFound) {
		t.Errorf("deleting an absent manifest: %v", err)
	}
}

// TestDeletePendingManifestKeepsListedImages proves that a pending manifest stays while a list names it, whether the list is in a version or pending,
// and goes with its staged signature otherwise.
func TestDeletePendingManifestKeepsListedImages(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	x := storetest.Target(t, s, "acme/app")
	id := x.Repository.ID
	late := storetest.Image(storetest.PushBlob(t, s, id, "config"), storetest.PushBlob(t, s, id, "layer"))
	multi := storetest.Index(late)
	if _, err := s.Content.PutManifest(t.Context(), content.PutManifest{RepositoryID: id, Manifest: multi, Tags: []string{"multi"}}); err != nil {
		t.Fatal(err)
	}
	if v, err := s.Content.PutManifest(t.Context(), content.PutManifest{RepositoryID: id, Manifest: late}); err != nil || v != nil {
		t.Fatalf("an image pushed by digest after its index made %+v, %v", v, err)
	}
	if _, err := s.Signatures.PutSignature(t.Context(), id, late.Digest, storetest.SignatureOf(t, s, x, late, "signed")); err != nil {
		t.Fatal(err)
	}
	for _, d := range []pulp.Manifest{late, multi, late} { // the index goes in between
		if _, err := s.Content.DeleteManifest(t.Context(), id, d.Digest); err != nil {
			t.Fatal(err)
		}
		_, err := s.Serving.ServedManifest(t.Context(), x, string(late.Digest))
		if _, gone := s.Serving.ServedManifest(t.Context(), x, string(multi.Digest)); gone == nil && err != nil {
			t.Errorf("a pending image that an index names is gone: %v", err)
		}
	}
	if _, err := s.Serving.ServedManifest(t.Context(), x, string(late.Digest)); !fault.Is(err, fault.NotFound) {
		t.Errorf("a pending image that nothing names: %v", err)
	}
	var staged int
	if err := s.DB.Read().QueryRowContext(t.Context(), `SELECT COUNT(*) FROM unversioned_content WHERE reason = 'pending' AND repository_id = $1 AND kind = $2`, id, pulp.KindSignature).Scan(&staged); err != nil || staged != 0 {
		t.Errorf("%d staged signatures are left, %v", staged, err)
	}
}
