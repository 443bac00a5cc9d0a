package content_test

import (
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/storetest"
)

// TestFetchedContent keeps content that a sync has fetched and serves none of it; a push can deliver its absent blobs.
func TestFetchedContent(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	ctx := t.Context()
	remote, err := s.Catalog.CreateRemote(ctx, pulp.Remote{Name: "r", URL: "https://x", UpstreamName: "a/b", Policy: pulp.OnDemand}, 0)
	if err != nil {
		t.Fatal(err)
	}
	repo := newRepository(t, s, "mirror")
	if _, err := s.Catalog.CreateDistribution(ctx, nil, pulp.Distribution{Name: "m", BasePath: "m", RepositoryID: repo.ID}, 0); err != nil {
		t.Fatal(err)
	}
	served, err := s.Serving.Resolve(ctx, "m")
	if err != nil {
		t.Fatal(err)
	}
	config, layer := digest.FromString("config"), digest.FromString("layer")
	for _, b := range []pulp.Blob{{Digest: config, Size: 6, Data: []byte("config"), Inline: true}, {Digest: layer, Size: 5, Absent: true}} {
		if err := s.Content.FetchedBlob(ctx, repo.ID, remote.ID, b); err != nil {
			t.Fatal(err)
		}
	}
	m := storetest.Image(pulp.Descriptor{Digest: config}, pulp.Descriptor{Digest: layer})
	if err := s.Content.FetchedManifest(ctx, repo.ID, m); err != nil {
		t.Fatal(err)
	}
	later := time.Now().Add(time.Hour)
	if n, err := s.Sweeps.SweepOrphans(ctx, later, 100); err != nil || n != 0 {
		t.Errorf("the sweep took %d, %v", n, err)
	}
	if _, err := s.Serving.ServedManifest(ctx, served, string(m.Digest)); !fault.Is(err, fault.NotFound) {
		t.Errorf("a fetched manifest is served: %v", err)
	}
	if _, err := s.Serving.ServedBlob(ctx, served, config); !fault.Is(err, fault.NotFound) {
		t.Errorf("a fetched blob is served: %v", err)
	}
	v, err := s.Content.CommitSync(ctx, nil, content.Synced{RepositoryID: repo.ID, Tags: map[string]digest.Digest{"latest": m.Digest}})
	if err != nil {
		t.Fatal(err)
	}
	storetest.WantCounts(t, v, storetest.Counts{
		Blobs:     pulp.Count{Present: 2, Added: 2},
		Manifests: pulp.Count{Present: 1, Added: 1},
		Tags:      pulp.Count{Present: 1, Added: 1},
	})
	if v, err := s.Content.CommitSync(ctx, nil, content.Synced{RepositoryID: repo.ID, Tags: map[string]digest.Digest{"latest": m.Digest}}); err != nil || v != nil {
		t.Errorf("the same again: %+v, %v", v, err)
	}
	b, err := s.Serving.ServedBlob(ctx, served, layer)
	if err != nil || !b.Absent || b.Size != 5 {
		t.Errorf("the layer is %+v, %v", b, err)
	}
	if sources, err := s.Serving.BlobSources(ctx, b.ID); err != nil || len(sources) != 1 || sources[0].ID != remote.ID {
		t.Errorf("its sources are %v, %v", sources, err)
	}
	// Somebody pushes it elsewhere: that is no proof that this repository may have it; a copy inherits the claim.
	elsewhere := storetest.Target(t, s, "acme/app")
	storetest.PushBlob(t, s, elsewhere.Repository.ID, "layer")
	if b, err := s.Serving.ServedBlob(ctx, elsewhere, layer); err != nil || b.Absent || string(b.Data) != "layer" {
		t.Errorf("where it was pushed the layer is %+v, %v", b, err)
	}
	copied := newRepository(t, s, "copied")
	if _, err := s.Content.CopyContent(ctx, nil, copied.ID, content.Copy{RepositoryID: repo.ID, Number: 1, Tags: true}); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{repo.ID, copied.ID} {
		if _, absent, err := s.Content.HasBlob(ctx, id, layer); err != nil || !absent {
			t.Errorf("claimed and not shown, and yet there: %v", err)
		}
	}
	// The remote delivers it: the claims of both repositories on this remote end.
	if err := s.Content.FilledBlob(ctx, repo.ID, remote.ID, b); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{repo.ID, copied.ID} {
		if _, absent, err := s.Content.HasBlob(ctx, id, layer); err != nil || absent {
			t.Errorf("shown, and yet absent: %v", err)
		}
	}
	// A claim without its remote is none that can be met.
	if err := s.Content.FetchedBlob(ctx, copied.ID, remote.ID, pulp.Blob{Digest: config, Size: 99, Absent: true}); err != nil {
		t.Fatal(err)
	}
	if err := s.Catalog.DeleteRemote(ctx, nil, remote.ID); err != nil {
		t.Fatal(err)
	}
	if _, absent, err := s.Content.HasBlob(ctx, copied.ID, config); err != nil || !absent {
		t.Errorf("a claim went with its remote: %v", err)
	}
	// Fetched content that no later sync uses is swept.
	if err := s.Content.FetchedBlob(ctx, repo.ID, "", pulp.Blob{Digest: digest.FromString("x"), Size: 1, Absent: true}); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Sweeps.SweepFetched(ctx, later, 100); err != nil || n != 2 {
		t.Errorf("%d forgotten, %v", n, err)
	}
	if n, err := s.Sweeps.SweepOrphans(ctx, later, 100); err != nil || n != 1 {
		t.Errorf("%d orphans, %v", n, err)
	}
}

func TestSyncsReplaceOrExtendContent(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		mirror bool
		kept   []string
		want   map[string]string // the images of the tags after the second sync
	}{
		"additive":            {want: map[string]string{"v1": "two", "old": "one", "v2": "two"}},
		"mirror":              {mirror: true, want: map[string]string{"v1": "two", "v2": "two"}},
		"mirror, a kept tag":  {mirror: true, kept: []string{"old"}, want: map[string]string{"v1": "two", "v2": "two", "old": "one"}},
		"additive, kept tags": {kept: []string{"v1"}, want: map[string]string{"v1": "one", "v2": "two", "old": "one"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := storetest.Open(t)
			id := storetest.Target(t, s, "acme/app").Repository.ID
			images := map[string]digest.Digest{}
			for _, text := range []string{"one", "two"} {
				images[text] = fetchedImage(t, s, id, text).Digest
			}
			sync := content.Synced{RepositoryID: id, Mirror: c.mirror, Tags: map[string]digest.Digest{"v1": images["one"], "old": images["one"]}}
			if v, err := s.Content.CommitSync(t.Context(), nil, sync); err != nil || v == nil {
				t.Fatalf("first sync: %+v, %v", v, err)
			}
			fetchedImage(t, s, id, "two") // the first sync dropped the record
			sync.Tags, sync.Kept = map[string]digest.Digest{"v1": images["two"], "v2": images["two"]}, c.kept
			for _, kept := range c.kept {
				delete(sync.Tags, kept)
			}
			if v, err := s.Content.CommitSync(t.Context(), nil, sync); err != nil || v == nil {
				t.Fatalf("second sync: %+v, %v", v, err)
			}
			held, err := s.Content.HeldTags(t.Context(), id)
			if err != nil || len(held) != len(c.want) {
				t.Errorf("tags after the second sync: %v, %v, want %v", held, err, c.want)
			}
			for tag, text := range c.want {
				if held[tag] != images[text] {
					t.Errorf("%s is %s, want image %s", tag, held[tag], text)
				}
			}
		})
	}
}
