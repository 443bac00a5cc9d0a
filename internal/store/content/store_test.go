package content_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/storetest"
)

func TestPushMakesOneVersion(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	to := storetest.Target(t, s, "acme/app")
	if to.Repository.LatestVersion != 0 || !to.Repository.MadeByPush || to.Repository.Name != "acme/app" || to.Distribution.BasePath != "acme/app" {
		t.Errorf("first push made %+v", to)
	}
	first, v := storetest.PushImage(t, s, to.Repository.ID, "one", "v1")
	storetest.WantCounts(t, v, storetest.Counts{
		Blobs:     pulp.Count{Present: 2, Added: 2},
		Manifests: pulp.Count{Present: 1, Added: 1},
		Tags:      pulp.Count{Present: 1, Added: 1},
	})

	_, v = storetest.PushImage(t, s, to.Repository.ID, "one", "v1")
	if v != nil {
		t.Errorf("the same push again made version %d, want none", v.Number)
	}
	second, v := storetest.PushImage(t, s, to.Repository.ID, "two", "v1") // recording 65c: the old manifest and its blobs stay
	storetest.WantCounts(t, v, storetest.Counts{
		Blobs:     pulp.Count{Present: 4, Added: 2},
		Manifests: pulp.Count{Present: 2, Added: 1},
		Tags:      pulp.Count{Present: 1, Added: 1, Removed: 1},
	})

	got, err := s.Serving.ServedManifest(t.Context(), to, "v1")
	if err != nil || got.Digest != second.Digest {
		t.Errorf("v1 is %s, %v, want %s", got.Digest, err, second.Digest)
	}
	pinned := to
	pinned.Distribution.Pinned = &pulp.PinnedVersion{RepositoryID: to.Repository.ID, Number: 1}
	got, err = s.Serving.ServedManifest(t.Context(), pinned, "v1")
	if err != nil || got.Digest != first.Digest {
		t.Errorf("v1 in version 1 is %s, %v, want %s", got.Digest, err, first.Digest)
	}
	if _, err := s.Serving.ServedManifest(t.Context(), pinned, string(second.Digest)); !fault.Is(err, fault.NotFound) {
		t.Errorf("the second image in version 1: %v, want NotFound", err)
	}
}

func TestManifestByDigestIsPending(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	to := storetest.Target(t, s, "acme/app")
	a, v := storetest.PushImage(t, s, to.Repository.ID, "amd64")
	b, w := storetest.PushImage(t, s, to.Repository.ID, "arm64")
	if v != nil || w != nil {
		t.Error("a push by digest made a version")
	}
	if got, err := s.Serving.ServedManifest(t.Context(), to, string(a.Digest)); err != nil || got.Digest != a.Digest {
		t.Errorf("a pending manifest is served as %v, %v", got.Digest, err)
	}
	g := storetest.SignatureOf(t, s, to, a, "sig a")
	if v, err := s.Signatures.PutSignature(t.Context(), to.Repository.ID, a.Digest, g); v != nil || err != nil {
		t.Errorf("a signature ahead of its manifest: %v, %v, want it to wait (compatibility.md#uploaded-signatures)", v, err)
	}
	list := storetest.Index(a, b)
	v, err := s.Content.PutManifest(t.Context(), content.PutManifest{RepositoryID: to.Repository.ID, Manifest: list, Tags: []string{"multi"}})
	if err != nil {
		t.Fatal(err)
	}
	storetest.WantCounts(t, v, storetest.Counts{
		Blobs:      pulp.Count{Present: 4, Added: 4},
		Manifests:  pulp.Count{Present: 3, Added: 3},
		Signatures: pulp.Count{Present: 1, Added: 1},
		Tags:       pulp.Count{Present: 1, Added: 1},
	})
	var left int
	if err := s.DB.Read().QueryRowContext(t.Context(), `SELECT COUNT(*) FROM unversioned_content WHERE reason = 'pending'`).Scan(&left); err != nil || left != 0 {
		t.Errorf("%d units still wait, %v", left, err)
	}
}

func TestManifestMayNotLackBlobs(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	to, other := storetest.Target(t, s, "acme/app"), storetest.Target(t, s, "acme/other")
	config, layer := storetest.PushBlob(t, s, to.Repository.ID, "config"), storetest.PushBlob(t, s, other.Repository.ID, "layer")
	m := storetest.Image(config, layer)
	_, err := s.Content.PutManifest(t.Context(), content.PutManifest{RepositoryID: to.Repository.ID, Manifest: m, Tags: []string{"v1"}})
	if missing, ok := errors.AsType[*content.MissingBlobs](err); !ok || len(missing.Digests) != 1 || missing.Digests[0] != layer.Digest {
		t.Fatalf("PutManifest = %v, want the layer of another repository to be missing", err)
	}
	if _, err := s.Serving.ServedManifest(t.Context(), to, string(m.Digest)); !fault.Is(err, fault.NotFound) {
		t.Errorf("a refused manifest is served: %v", err)
	}
	m.Layers[0].URLs = []string{"https://elsewhere.example/layer"}
	if _, err := s.Content.PutManifest(t.Context(), content.PutManifest{RepositoryID: to.Repository.ID, Manifest: m, Tags: []string{"v1"}}); err != nil {
		t.Errorf("a foreign layer need not be there: %v", err)
	}
	sparse := storetest.Index(m, pulp.Manifest{Digest: digest.FromString("absent")})
	put := content.PutManifest{RepositoryID: to.Repository.ID, Manifest: sparse, Tags: []string{"sparse"}, RequireChildren: true}
	if _, err := s.Content.PutManifest(t.Context(), put); err == nil {
		t.Error("a sparse index was taken although children are required")
	}
	put.RequireChildren = false
	if _, err := s.Content.PutManifest(t.Context(), put); err != nil {
		t.Errorf("a sparse index: %v", err)
	}
}

func TestDeleteManifestTakesWhatIsItsOwn(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	to := storetest.Target(t, s, "acme/app")
	shared := storetest.PushBlob(t, s, to.Repository.ID, "shared layer")
	one := storetest.Image(storetest.PushBlob(t, s, to.Repository.ID, "config 1"), shared)
	two := storetest.Image(storetest.PushBlob(t, s, to.Repository.ID, "config 2"), shared)
	for tag, m := range map[string]pulp.Manifest{"one": one, "two": two} {
		if _, err := s.Content.PutManifest(t.Context(), content.PutManifest{RepositoryID: to.Repository.ID, Manifest: m, Tags: []string{tag}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Signatures.PutSignature(t.Context(), to.Repository.ID, one.Digest, storetest.SignatureOf(t, s, to, one, "sig")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Content.DeleteBlob(t.Context(), to.Repository.ID, shared.Digest); !fault.Is(err, fault.Conflict) {
		t.Errorf("deleting a blob in use: %v, want Conflict (compatibility.md#deleting-content)", err)
	}
	v, err := s.Content.DeleteManifest(t.Context(), to.Repository.ID, one.Digest)
	if err != nil {
		t.Fatal(err)
	}
	storetest.WantCounts(t, v, storetest.Counts{
		Blobs:      pulp.Count{Present: 2, Removed: 1},
		Manifests:  pulp.Count{Present: 1, Removed: 1},
		Signatures: pulp.Count{Removed: 1},
		Tags:       pulp.Count{Present: 1, Removed: 1},
	})
	if _, err := s.Content.DeleteManifest(t.Context(), to.Repository.ID, one.Digest); !fault.Is(err, fault.NotFound) {
		t.Errorf("deleting it again: %v, want NotFound", err)
	}
	v, err = s.Content.DeleteTag(t.Context(), to.Repository.ID, "two", nil)
	if err != nil {
		t.Fatal(err)
	}
	storetest.WantCounts(t, v, storetest.Counts{
		Blobs:     pulp.Count{Present: 2},
		Manifests: pulp.Count{Present: 1},
		Tags:      pulp.Count{Removed: 1},
	})
}

func TestConcurrentPushesAllSucceed(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	to := storetest.Target(t, s, "acme/app")
	const clients, each = 10, 10
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for i := range each {
				text := fmt.Sprintf("%d/%d", c, i)
				b := pulp.Blob{Digest: digest.FromString(text), Data: []byte(text), Inline: true}
				if err := s.Content.CommitBlob(t.Context(), to.Repository.ID, b, "", 0); err != nil {
					t.Error(err)
					return
				}
				d := pulp.Descriptor{Digest: b.Digest}
				_, err := s.Content.PutManifest(t.Context(), content.PutManifest{RepositoryID: to.Repository.ID, Manifest: storetest.Image(d, d), Tags: []string{fmt.Sprintf("%d-%d", c, i)}})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	v, err := s.Content.Version(t.Context(), to.Repository.ID, clients*each)
	if err != nil {
		t.Fatal(err)
	}
	storetest.WantCounts(t, &v, storetest.Counts{
		Blobs:     pulp.Count{Present: 100, Added: 1},
		Manifests: pulp.Count{Present: 100, Added: 1},
		Tags:      pulp.Count{Present: 100, Added: 1},
	})
	tags, err := s.Serving.ServedTags(t.Context(), to, "", 1000)
	if err != nil || len(tags) != clients*each {
		t.Errorf("%d tags, %v, want %d", len(tags), err, clients*each)
	}
}
