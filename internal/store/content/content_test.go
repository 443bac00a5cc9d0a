package content_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/catalog"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/internal/store/upstreamstate"
)

// shelf is a repository with two images that share a layer, an index of one of them and a third, and tags: one, two, multi; and a signature of the image one.
type shelf struct {
	record.Target
	one, two, third, multi pulp.Manifest
	layer                  pulp.Descriptor
}

func fillShelf(t *testing.T, s *store.Store, path string) *shelf {
	t.Helper()
	x := &shelf{Target: storetest.Target(t, s, path)}
	id := x.Repository.ID
	x.layer = storetest.PushBlob(t, s, id, "shared layer")
	push := func(m pulp.Manifest, tags ...string) pulp.Manifest {
		t.Helper()
		if _, err := s.Content.PutManifest(t.Context(), content.PutManifest{RepositoryID: id, Manifest: m, Tags: tags}); err != nil {
			t.Fatal(err)
		}
		return m
	}
	x.one = push(storetest.Image(storetest.PushBlob(t, s, id, "config one"), x.layer), "one")
	x.two = push(storetest.Image(storetest.PushBlob(t, s, id, "config two"), x.layer), "two")
	x.third = push(storetest.Image(storetest.PushBlob(t, s, id, "config third"), storetest.PushBlob(t, s, id, "third layer")))
	x.multi = push(storetest.Index(x.one, x.third), "multi")
	if _, err := s.Signatures.PutSignature(t.Context(), id, x.one.Digest, storetest.SignatureOf(t, s, x.Target, x.one, "signed")); err != nil {
		t.Fatal(err)
	}
	r, err := s.Catalog.Repository(t.Context(), pulp.ContainerPush, id)
	if err != nil {
		t.Fatal(err)
	}
	x.Repository = r
	return x
}

// unitOf returns a unit of a repository's latest version.
func unitOf(t *testing.T, s *store.Store, repositoryID string, kind pulp.Kind, key string) record.Unit {
	t.Helper()
	_, id, err := s.Content.Unit(t.Context(), repositoryID, kind, key)
	if err != nil || id == "" {
		t.Fatalf("%v %s: %q, %v", kind, key, id, err)
	}
	return record.Unit{Kind: kind, ID: id}
}

func newRepository(t *testing.T, s *store.Store, name string) pulp.Repository {
	t.Helper()
	r, err := s.Catalog.CreateRepository(t.Context(), pulp.Repository{Type: pulp.Container, Name: name}, 0)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRemoveKeepsWhatIsNamed(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	x := fillShelf(t, s, "acme/app")
	id := x.Repository.ID
	remove := func(want storetest.Counts, units ...record.Unit) {
		t.Helper()
		v, err := s.Content.RemoveContent(t.Context(), nil, id, units)
		if err != nil {
			t.Fatal(err)
		}
		storetest.WantCounts(t, v, want)
	}
	for what, change := range map[string]func(context.Context, *taskstore.Claim, string, []record.Unit) (*pulp.Version, error){
		"removal": s.Content.RemoveContent,
		"addition": func(ctx context.Context, claim *taskstore.Claim, id string, units []record.Unit) (*pulp.Version, error) {
			return s.Content.AddContent(ctx, claim, id, units, nil)
		},
	} {
		if v, err := change(t.Context(), nil, id, nil); err != nil || v != nil {
			t.Errorf("the %s of nothing made %+v, %v", what, v, err)
		}
	}
	// The shelf: 5 blobs, 4 manifests, 1 signature, 3 tags. The tag one goes; its image is the index's too, and stays with its signature.
	remove(storetest.Counts{
		Blobs:      pulp.Count{Present: 5},
		Manifests:  pulp.Count{Present: 4},
		Signatures: pulp.Count{Present: 1},
		Tags:       pulp.Count{Present: 2, Removed: 1},
	}, unitOf(t, s, id, pulp.KindTag, "one"))
	// An image that a tag names cannot be removed alone, and a blob that an image names neither.
	if v, err := s.Content.RemoveContent(t.Context(), nil, id, []record.Unit{unitOf(t, s, id, pulp.KindManifest, string(x.two.Digest)), unitOf(t, s, id, pulp.KindBlob, string(x.layer.Digest))}); err != nil || v != nil {
		t.Errorf("removal of what is named made %+v, %v", v, err)
	}
	// The index goes with its images, their signature and blobs; the shared layer stays for two.
	remove(storetest.Counts{
		Blobs:      pulp.Count{Present: 2, Removed: 3},
		Manifests:  pulp.Count{Present: 1, Removed: 3},
		Signatures: pulp.Count{Removed: 1},
		Tags:       pulp.Count{Present: 1, Removed: 1},
	}, unitOf(t, s, id, pulp.KindTag, "multi"))
	remove(storetest.Counts{
		Blobs:     pulp.Count{Removed: 2},
		Manifests: pulp.Count{Removed: 1},
		Tags:      pulp.Count{Removed: 1},
	}, unitOf(t, s, id, pulp.KindTag, "two"))
	// All of it is in older versions still; and can come back.
	v, err := s.Content.Restore(t.Context(), nil, id, x.Repository.LatestVersion)
	if err != nil {
		t.Fatal(err)
	}
	storetest.WantCounts(t, v, storetest.Counts{
		Blobs:      pulp.Count{Present: 5, Added: 5},
		Manifests:  pulp.Count{Present: 4, Added: 4},
		Signatures: pulp.Count{Present: 1, Added: 1},
		Tags:       pulp.Count{Present: 3, Added: 3},
	})
	if v, err = s.Content.RemoveAll(t.Context(), nil, id); err != nil {
		t.Fatal(err)
	}
	storetest.WantCounts(t, v, storetest.Counts{
		Blobs:      pulp.Count{Removed: 5},
		Manifests:  pulp.Count{Removed: 4},
		Signatures: pulp.Count{Removed: 1},
		Tags:       pulp.Count{Removed: 3},
	})
}

func TestRemoveImage(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	x := fillShelf(t, s, "acme/app")
	id := x.Repository.ID
	v, err := s.Content.RemoveImage(t.Context(), nil, id, x.multi.Digest) // with its tag and its third image; one has a tag
	if err != nil {
		t.Fatal(err)
	}
	storetest.WantCounts(t, v, storetest.Counts{
		Blobs:      pulp.Count{Present: 3, Removed: 2},
		Manifests:  pulp.Count{Present: 2, Removed: 2},
		Signatures: pulp.Count{Present: 1},
		Tags:       pulp.Count{Present: 2, Removed: 1},
	})
	if v, err = s.Content.RemoveImage(t.Context(), nil, id, x.one.Digest); err != nil {
		t.Fatal(err)
	}
	storetest.WantCounts(t, v, storetest.Counts{
		Blobs:      pulp.Count{Present: 2, Removed: 1},
		Manifests:  pulp.Count{Present: 1, Removed: 1},
		Signatures: pulp.Count{Removed: 1},
		Tags:       pulp.Count{Present: 1, Removed: 1},
	})
	if _, err := s.Content.RemoveImage(t.Context(), nil, id, x.one.Digest); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "'<Repository: acme/app; Version: ") {
		t.Errorf("a manifest that is not there: %v", err)
	}
	if _, err := s.Content.RemoveSignatures(t.Context(), nil, id, "0000"); !fault.Is(err, fault.Invalid) {
		t.Errorf("signatures that are not there: %v", err)
	}
}

func TestCopies(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	x := fillShelf(t, s, "acme/app")
	to := newRepository(t, s, "copies")
	from := content.Copy{RepositoryID: x.Repository.ID, Number: x.Repository.LatestVersion}
	copied := func(c content.Copy, want storetest.Counts) {
		t.Helper()
		v, err := s.Content.CopyContent(t.Context(), nil, to.ID, c)
		if err != nil {
			t.Fatal(err)
		}
		storetest.WantCounts(t, v, want)
	}
	tags := from
	tags.Tags, tags.Names = true, []string{"multi", "nosuch"}
	copied(tags, storetest.Counts{
		Blobs:     pulp.Count{Present: 4, Added: 4},
		Manifests: pulp.Count{Present: 3, Added: 3},
		Tags:      pulp.Count{Present: 1, Added: 1},
	}) // without signatures
	manifests := from
	manifests.Digests = []string{string(x.two.Digest)}
	copied(manifests, storetest.Counts{
		Blobs:     pulp.Count{Present: 5, Added: 1},
		Manifests: pulp.Count{Present: 4, Added: 1},
		Tags:      pulp.Count{Present: 1},
	})
	manifests.MediaTypes = []string{pulp.OCIIndex} // and-ed
	if v, err := s.Content.CopyContent(t.Context(), nil, to.ID, manifests); err != nil || v != nil {
		t.Errorf("an image that is an index: %+v, %v", v, err)
	}
	// A tag of the same name is replaced.
	other := newRepository(t, s, "other")
	o := storetest.Target(t, s, "acme/other")
	storetest.PushImage(t, s, o.Repository.ID, "other", "multi")
	if _, err := s.Content.CopyContent(t.Context(), nil, other.ID, content.Copy{RepositoryID: o.Repository.ID, Number: 1, Tags: true}); err != nil {
		t.Fatal(err)
	}
	v, err := s.Content.CopyContent(t.Context(), nil, other.ID, tags)
	if err != nil {
		t.Fatal(err)
	}
	storetest.WantCounts(t, v, storetest.Counts{
		Blobs:     pulp.Count{Present: 6, Added: 4},
		Manifests: pulp.Count{Present: 4, Added: 3},
		Tags:      pulp.Count{Present: 1, Added: 1, Removed: 1},
	})
	if _, err := s.Content.CopyContent(t.Context(), nil, to.ID, content.Copy{RepositoryID: from.RepositoryID, Number: 99, Tags: true}); !fault.Is(err, fault.NotFound) {
		t.Errorf("a version that is not there: %v", err)
	}
	// A copy of an old version has the content of that version.
	fresh := newRepository(t, s, "fresh")
	if v, err = s.Content.CopyContent(t.Context(), nil, fresh.ID, content.Copy{RepositoryID: from.RepositoryID, Number: 1, Tags: true}); err != nil {
		t.Fatal(err)
	}
	storetest.WantCounts(t, v, storetest.Counts{
		Blobs:     pulp.Count{Present: 2, Added: 2},
		Manifests: pulp.Count{Present: 1, Added: 1},
		Tags:      pulp.Count{Present: 1, Added: 1},
	})
}

// An addition includes only content that the user may see.
func TestAddTakesOnlyWhatIsSeen(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	secret, public := storetest.Target(t, s, "victim/app"), storetest.Target(t, s, "mallory/app")
	if err := s.Catalog.SetPrivate(t.Context(), "victim/app", true); err != nil {
		t.Fatal(err)
	}
	hidden, _ := storetest.PushImage(t, s, secret.Repository.ID, "secret", "latest")
	// A sparse index that names the hidden image (compatibility.md#absent-parts).
	sparse := storetest.Index(hidden)
	if _, err := s.Content.PutManifest(t.Context(), content.PutManifest{RepositoryID: public.Repository.ID, Manifest: sparse, Tags: []string{"x"}}); err != nil {
		t.Fatal(err)
	}
	tag := unitOf(t, s, public.Repository.ID, pulp.KindTag, "x")
	mine, admins := newRepository(t, s, "mallory/copy"), newRepository(t, s, "admin/copy")
	v, err := s.Content.AddContent(t.Context(), nil, mine.ID, []record.Unit{tag, unitOf(t, s, secret.Repository.ID, pulp.KindTag, "latest")}, storetest.ViewerOf(t, s, "mallory"))
	if err != nil {
		t.Fatal(err)
	}
	storetest.WantCounts(t, v, storetest.Counts{
		Manifests: pulp.Count{Present: 1, Added: 1},
		Tags:      pulp.Count{Present: 1, Added: 1},
	})
	if v, err = s.Content.AddContent(t.Context(), nil, admins.ID, []record.Unit{tag}, nil); err != nil {
		t.Fatal(err)
	}
	storetest.WantCounts(t, v, storetest.Counts{
		Blobs:     pulp.Count{Present: 2, Added: 2},
		Manifests: pulp.Count{Present: 2, Added: 2},
		Tags:      pulp.Count{Present: 1, Added: 1},
	})
}

func TestTags(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	s.Content.EnableOutbox()
	x := fillShelf(t, s, "acme/app")
	id := x.Repository.ID
	v, err := s.Content.TagManifest(t.Context(), nil, id, "one", x.two.Digest)
	if err != nil {
		t.Fatal(err)
	}
	storetest.WantCounts(t, v, storetest.Counts{
		Blobs:      pulp.Count{Present: 5},
		Manifests:  pulp.Count{Present: 4},
		Signatures: pulp.Count{Present: 1},
		Tags:       pulp.Count{Present: 3, Added: 1, Removed: 1},
	})
	if v, err := s.Content.TagManifest(t.Context(), nil, id, "one", x.two.Digest); err != nil || v != nil {
		t.Errorf("the same again: %+v, %v", v, err)
	}
	if _, err := s.Content.TagManifest(t.Context(), nil, id, "x", digest.FromString("x")); !fault.Is(err, fault.Invalid) {
		t.Errorf("a manifest that is not there: %v", err)
	}
	if _, err := s.Content.Untag(t.Context(), nil, id, "nosuch"); !fault.Is(err, fault.Invalid) {
		t.Errorf("a tag that is not there: %v", err)
	}
	if _, err := s.Content.Untag(t.Context(), nil, id, "two"); err != nil {
		t.Fatal(err)
	}
	// All tags that change are written through, however they change.
	wrote := map[string]string{}
	settle := func() {
		t.Helper()
		due, err := s.Upstream.OutboxTags(t.Context(), 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range due {
			wrote[d.Name] = d.Digest
			if err := s.Upstream.MarkWritten(t.Context(), []upstreamstate.OutboxTag{d}); err != nil {
				t.Fatal(err)
			}
		}
	}
	settle()
	for what, change := range map[string]func() error{
		"restore": func() error {
			_, err := s.Content.Restore(t.Context(), nil, id, x.Repository.LatestVersion)
			return err
		},
		"remove all": func() error { _, err := s.Content.RemoveAll(t.Context(), nil, id); return err },
		"delete of the latest": func() error {
			r, err := s.Catalog.Repository(t.Context(), pulp.ContainerPush, id)
			if err != nil {
				return err
			}
			return s.Content.DeleteVersion(t.Context(), nil, id, r.LatestVersion)
		},
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		settle()
		held, err := s.Content.HeldTags(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		var dirty int
		if err := s.DB.Read().QueryRowContext(t.Context(), `SELECT COUNT(*) FROM upstream_tag u WHERE u.dirty`).Scan(&dirty); err != nil || dirty > 0 {
			t.Errorf("%s: %d tags are still to be written, %v", what, dirty, err)
		}
		for name, d := range wrote {
			if string(held[name]) != d {
				t.Errorf("%s: %s was written as %q and is %q", what, name, d, held[name])
			}
		}
	}
}

func TestDistributions(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	ctx := t.Context()
	repo := newRepository(t, s, "r")
	first, err := s.Catalog.CreateDistribution(ctx, nil, pulp.Distribution{Name: "a", BasePath: "ns/a", RepositoryID: repo.ID}, 0)
	if err != nil {
		t.Fatal(err)
	}
	for path, field := range map[string]string{"ns/a": "base_path", "ns/a/b": catalog.OverlapField, "ns": catalog.OverlapField, "ns/a-b": "", "ns/ab": "", "n": ""} {
		conflict, err := s.Catalog.DistributionConflict(ctx, pulp.Distribution{Name: "other", BasePath: path})
		f, _ := errors.AsType[*fault.Error](conflict)
		if err != nil || (conflict == nil) != (field == "") || field != "" && len(f.Fields[field]) == 0 {
			t.Errorf("%s: %v, %v", path, conflict, err)
		}
	}
	if conflict, err := s.Catalog.DistributionConflict(ctx, pulp.Distribution{ID: first.ID, Name: "a", BasePath: "ns/a"}); err != nil || conflict != nil {
		t.Errorf("it stands against itself: %v, %v", conflict, err)
	}
	if _, err := s.Catalog.CreateDistribution(ctx, nil, pulp.Distribution{Name: "a", BasePath: "x", RepositoryID: repo.ID}, 0); !fault.Is(err, fault.Invalid) {
		t.Errorf("a taken name: %v", err)
	}
	// A push may nest (compatibility.md#nested-names); existing repositories can still be edited.
	storetest.Target(t, s, "ns/a/below")
	if d, err := s.Catalog.EditDistribution(ctx, nil, first.ID, 0, func(d *pulp.Distribution) { d.Private = true }); err != nil || !d.Private {
		t.Errorf("edit: %+v, %v", d, err)
	}
	if err := s.Catalog.DeleteRepository(ctx, nil, pulp.Container, repo.ID); err != nil {
		t.Fatal(err)
	}
	if d, err := s.Catalog.Distribution(ctx, first.ID); err != nil || d.RepositoryID != "" {
		t.Errorf("after its repository: %+v, %v", d, err)
	}
	if err := s.Catalog.DeleteNamespace(ctx, nil, first.NamespaceID); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Serving.Resolve(ctx, "ns/a/below"); !fault.Is(err, fault.NotFound) {
		t.Errorf("a path of a namespace that is gone: %v", err)
	}
}

func TestMigrate(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	x := fillShelf(t, s, "acme/app")
	if err := s.Catalog.MigrateRepository(t.Context(), nil, x.Repository.ID); err != nil {
		t.Fatal(err)
	}
	r, err := s.Catalog.Repository(t.Context(), pulp.Container, x.Repository.ID)
	if err != nil || r.LatestVersion != x.Repository.LatestVersion {
		t.Errorf("migrated: %+v, %v", r, err)
	}
	if err := s.Catalog.MigrateRepository(t.Context(), nil, x.Repository.ID); !fault.Is(err, fault.NotFound) {
		t.Errorf("again: %v", err)
	}
	if _, err := s.Serving.ServedManifest(t.Context(), x.Target, "one"); err != nil {
		t.Error(err)
	}
}
