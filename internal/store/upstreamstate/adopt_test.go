package upstreamstate_test

import (
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/internal/store/upstreamstate"
)

// fetchImage records an image like adoption does: its blobs are upstream.
func fetchImage(t *testing.T, s *store.Store, repositoryID, text string) digest.Digest {
	t.Helper()
	part := func(text string) pulp.Descriptor {
		b := pulp.Blob{Digest: digest.FromString(text), Size: int64(len(text)), Location: "acme/app"}
		if err := s.Content.FetchedBlob(t.Context(), repositoryID, "", b); err != nil {
			t.Fatal(err)
		}
		return pulp.Descriptor{Digest: b.Digest, Size: b.Size}
	}
	m := storetest.Image(part("config "+text), part("layer "+text))
	if err := s.Content.FetchedManifest(t.Context(), repositoryID, m); err != nil {
		t.Fatal(err)
	}
	return m.Digest
}

// written records that all tags of the outbox were written.
func written(t *testing.T, s *store.Store) {
	t.Helper()
	due, err := s.Upstream.OutboxTags(t.Context(), 100)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Upstream.MarkWritten(t.Context(), due); err != nil {
		t.Fatal(err)
	}
}

func upstreamTag(t *testing.T, s *store.Store, repositoryID, name string) upstreamstate.UpstreamTag {
	t.Helper()
	tags, err := s.Upstream.UpstreamTags(t.Context(), repositoryID)
	if err != nil {
		t.Fatal(err)
	}
	return tags[name]
}

// TestAdoptionLosesToAPush proves that a push after the upstream was asked wins over the adoption.
func TestAdoptionLosesToAPush(t *testing.T) {
	t.Parallel()
	for name, between := range map[string]func(*testing.T, *store.Store, string){
		"a push that waits to be written through": func(t *testing.T, s *store.Store, id string) { storetest.PushImage(t, s, id, "mine", "v1") },
		"a push that was written through": func(t *testing.T, s *store.Store, id string) {
			storetest.PushImage(t, s, id, "mine", "v1")
			written(t, s)
		},
		"a push there and back": func(t *testing.T, s *store.Store, id string) {
			storetest.PushImage(t, s, id, "other", "v1")
			written(t, s)
			storetest.PushImage(t, s, id, "mine", "v1")
			written(t, s)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := storetest.Open(t)
			s.Content.EnableOutbox()
			id := storetest.Target(t, s, "acme/app").Repository.ID
			mine, _ := storetest.PushImage(t, s, id, "mine", "v1")
			written(t, s)
			seen := upstreamTag(t, s, id, "v1")
			if seen.Here != mine.Digest || seen.Dirty || seen.Serial == 0 {
				t.Fatalf("the tag is %+v", seen)
			}
			theirs := fetchImage(t, s, id, "theirs")
			between(t, s, id)
			before := upstreamTag(t, s, id, "v1")
			v, err := s.Upstream.CommitAdopted(t.Context(), upstreamstate.Adopted{RepositoryID: id, Tags: map[string]upstreamstate.AdoptedTag{"v1": {Digest: theirs, Serial: seen.Serial}}})
			if err != nil || v != nil {
				t.Errorf("the adoption made %+v, %v", v, err)
			}
			if after := upstreamTag(t, s, id, "v1"); !reflect.DeepEqual(after, before) || after.Here != mine.Digest {
				t.Errorf("the tag is %+v, and was %+v", after, before)
			}
		})
	}
}

// TestAdoption proves that new and moved tags are adopted and leave the outbox.
func TestAdoption(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	s.Content.EnableOutbox()
	id := storetest.Target(t, s, "acme/app").Repository.ID
	storetest.PushImage(t, s, id, "mine", "v1")
	written(t, s)
	theirs := fetchImage(t, s, id, "theirs")
	v, err := s.Upstream.CommitAdopted(t.Context(), upstreamstate.Adopted{RepositoryID: id, Tags: map[string]upstreamstate.AdoptedTag{
		"v1": {Digest: theirs, Serial: upstreamTag(t, s, id, "v1").Serial}, "new": {Digest: theirs},
	}})
	if err != nil {
		t.Fatal(err)
	}
	storetest.WantCounts(t, v, storetest.Counts{
		Blobs:     pulp.Count{Present: 4, Added: 2},
		Manifests: pulp.Count{Present: 2, Added: 1},
		Tags:      pulp.Count{Present: 2, Added: 2, Removed: 1},
	})
	for _, name := range []string{"v1", "new"} {
		if got := upstreamTag(t, s, id, name); got.Here != theirs || got.Dirty {
			t.Errorf("%s is %+v", name, got)
		}
	}
	if due, err := s.Upstream.OutboxTags(t.Context(), 10); err != nil || len(due) != 0 {
		t.Errorf("%v are to be written through, %v", due, err)
	}
	// The upstream was asked before that adoption.
	late := fetchImage(t, s, id, "older")
	for name, serial := range map[string]int64{"v1": 1, "new": 0} {
		if v, err := s.Upstream.CommitAdopted(t.Context(), upstreamstate.Adopted{RepositoryID: id, Tags: map[string]upstreamstate.AdoptedTag{name: {Digest: late, Serial: serial}}}); err != nil || v != nil {
			t.Errorf("the late adoption of %s made %+v, %v, want no version", name, v, err)
		}
	}
	// A tag that was created here in the meantime is not overwritten.
	storetest.PushImage(t, s, id, "mine", "made")
	if v, err := s.Upstream.CommitAdopted(t.Context(), upstreamstate.Adopted{RepositoryID: id, Tags: map[string]upstreamstate.AdoptedTag{"made": {Digest: theirs}}}); err != nil || v != nil {
		t.Errorf("the adoption made %+v, %v", v, err)
	}
}

// TestPins proves that a pin is stale when no version has the manifest any more.
func TestPins(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	id := storetest.Target(t, s, "acme/app").Repository.ID
	m, _ := storetest.PushImage(t, s, id, "one", "v1")
	storetest.PushImage(t, s, id, "two", "v1")
	if got, held, err := s.Upstream.HeldManifest(t.Context(), id, m.Digest); err != nil || !held || string(got.Payload) != string(m.Payload) {
		t.Errorf("HeldManifest = %+v, %t, %v", got, held, err)
	}
	for range 2 {
		if err := s.Upstream.PinManifest(t.Context(), upstreamstate.Pin{RepositoryID: id, Repository: "acme/app", Digest: m.Digest}); err != nil {
			t.Fatal(err)
		}
	}
	if stale, err := s.Upstream.StalePins(t.Context(), 10); err != nil || len(stale) != 0 {
		t.Errorf("StalePins = %v, %v", stale, err)
	}
	if _, err := s.Content.DeleteManifest(t.Context(), id, m.Digest); err != nil {
		t.Fatal(err)
	}
	for number := range int64(3) { // all versions with the manifest
		if err := s.Content.DeleteVersion(t.Context(), nil, id, number); err != nil {
			t.Fatal(err)
		}
	}
	stale, err := s.Upstream.StalePins(t.Context(), 10)
	if err != nil || len(stale) != 1 || stale[0].Digest != m.Digest || stale[0].Repository != "acme/app" {
		t.Fatalf("StalePins = %v, %v", stale, err)
	}
	if err := s.Upstream.RemovePin(t.Context(), stale[0]); err != nil {
		t.Fatal(err)
	}
	if stale, err := s.Upstream.StalePins(t.Context(), 10); err != nil || len(stale) != 0 {
		t.Errorf("StalePins = %v, %v", stale, err)
	}
}

// TestUnpinned proves that manifests of older versions are found, without those that a tag, an index or a pin protects.
func TestUnpinned(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	id, other := storetest.Target(t, s, "acme/app").Repository.ID, storetest.Target(t, s, "acme/other").Repository.ID
	amd, _ := storetest.PushImage(t, s, id, "amd64")
	arm, _ := storetest.PushImage(t, s, id, "arm64")
	list := storetest.Index(amd, arm)
	if _, err := s.Content.PutManifest(t.Context(), content.PutManifest{RepositoryID: id, Manifest: list, Tags: []string{"multi"}}); err != nil {
		t.Fatal(err)
	}
	storetest.PushImage(t, s, id, "tagged", "v1")
	replaced, _ := storetest.PushImage(t, s, other, "old", "v1")
	storetest.PushImage(t, s, other, "new", "v1")
	find := func(repositoryID string, want ...digest.Digest) []upstreamstate.Pin {
		t.Helper()
		found, err := s.Upstream.Unpinned(t.Context(), repositoryID, 10)
		if err != nil || len(found) != len(want) {
			t.Fatalf("Unpinned = %v, %v, want %v", found, err, want)
		}
		for i, k := range found {
			if k.Digest != want[i] {
				t.Errorf("%d is %v, want %v", i, k, want[i])
			}
		}
		return found
	}
	find(id)
	find("", replaced.Digest)
	old := find(other, replaced.Digest)
	if old[0].Repository != "acme/other" || old[0].RepositoryID != other {
		t.Errorf("Unpinned = %+v", old)
	}
	if _, err := s.Content.DeleteTag(t.Context(), id, "multi", nil); err != nil {
		t.Fatal(err)
	}
	for _, k := range find(id, list.Digest) {
		if err := s.Upstream.PinManifest(t.Context(), k); err != nil {
			t.Fatal(err)
		}
	}
	find(id)
}

// TestMissingUpstream proves that blobs under other names of the upstream are found, and children of an index.
func TestMissingUpstream(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	from, to := storetest.Target(t, s, "acme/app").Repository.ID, storetest.Target(t, s, "acme/copy").Repository.ID
	adopted := func(repositoryID, text, tag string) digest.Digest {
		t.Helper()
		d := fetchImage(t, s, repositoryID, text)
		if _, err := s.Upstream.CommitAdopted(t.Context(), upstreamstate.Adopted{RepositoryID: repositoryID, Tags: map[string]upstreamstate.AdoptedTag{tag: {Digest: d}}}); err != nil {
			t.Fatal(err)
		}
		return d
	}
	d := adopted(from, "one", "v1")
	if e, err := s.Upstream.MissingUpstream(t.Context(), from, d, "acme/app"); err != nil || len(e.Blobs)+len(e.Children) != 0 {
		t.Errorf("under its own name: %+v, %v", e, err)
	}
	if e, err := s.Upstream.MissingUpstream(t.Context(), to, d, "acme/copy"); err != nil || len(e.Blobs) != 0 {
		t.Errorf("a manifest of another repository: %+v, %v", e, err)
	}
	adopted(to, "one", "v1")
	if e, err := s.Upstream.MissingUpstream(t.Context(), to, d, "acme/copy"); err != nil || len(e.Blobs) != 2 || e.Blobs[0].Location != "acme/app" {
		t.Errorf("under another name: %+v, %v", e, err)
	}
	blob := digest.FromString("layer one")
	if err := s.Content.MoveBlob(t.Context(), blob, "acme/app", "acme/copy"); err != nil {
		t.Fatal(err)
	}
	if e, err := s.Upstream.MissingUpstream(t.Context(), to, d, "acme/copy"); err != nil || len(e.Blobs) != 1 {
		t.Errorf("after one was moved: %+v, %v", e, err)
	}
	// A push of it to the first name brings it there again.
	if err := s.Content.CommitBlob(t.Context(), from, pulp.Blob{Digest: blob, Size: 9, Location: "acme/app"}, "", 0); err != nil {
		t.Fatal(err)
	}
	if b, err := s.Serving.Blob(t.Context(), blob); err != nil || b.Location != "acme/app" {
		t.Errorf("after a push it lies under %s, %v", b.Location, err)
	}
	amd, _ := storetest.PushImage(t, s, to, "amd64")
	list := storetest.Index(amd, pulp.Manifest{Digest: d, MediaType: pulp.OCIManifest}, pulp.Manifest{Digest: digest.FromString("absent"), MediaType: pulp.OCIManifest})
	if _, err := s.Content.PutManifest(t.Context(), content.PutManifest{RepositoryID: to, Manifest: list, Tags: []string{"multi"}}); err != nil {
		t.Fatal(err)
	}
	if e, err := s.Upstream.MissingUpstream(t.Context(), to, list.Digest, "acme/copy"); err != nil || len(e.Children) != 2 {
		t.Errorf("of a list: %+v, %v", e, err)
	}
}

// TestStaleTableComesLater migrates databases with both forms of the fifth migration: without and with the table
// upstream_stale.
func TestStaleTableComesLater(t *testing.T) {
	t.Parallel()
	for name, drop := range map[string]bool{"without the table": true, "with it": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := storetest.OpenAt(t, 5)
			id := pulp.NewID()
			storetest.ExecAll(t, s, `INSERT INTO repository (id, type, name, created, updated) VALUES ('`+id+`', 'container', 'acme/app', 1, 1)`,
				`INSERT INTO upstream_tag (repository_id, name) VALUES ('`+id+`', 'v1')`)
			if drop {
				storetest.Exec(t, s, `DROP TABLE upstream_stale`)
			}
			if schema, err := s.DB.Schema(t.Context()); err != nil || !schema.Older() {
				t.Errorf("Schema = %+v, %v, want an older one", schema, err)
			}
			if err := s.DB.Migrate(t.Context()); err != nil {
				t.Fatal(err)
			}
			want := []upstreamstate.OutboxTag{{RepositoryID: id, Repository: "acme/app", Name: "v1", Serial: 1}}
			if after, err := s.Upstream.OutboxTags(t.Context(), 10); err != nil || !slices.Equal(after, want) {
				t.Errorf("after the migration there wait %v, %v, want %v", after, err, want)
			}
			if _, err := s.Upstream.UpstreamTags(t.Context(), pulp.NewID()); err != nil {
				t.Errorf("after the migration: %v", err)
			}
		})
	}
}

// TestDrift proves that a comparison replaces the recorded differences, and that LeastCompared uses the times of
// comparisons.
func TestDrift(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	a, b := storetest.Target(t, s, "acme/a").Repository, storetest.Target(t, s, "acme/b").Repository
	if due, err := s.Upstream.LeastCompared(t.Context(), time.Now(), 10); err != nil || len(due) != 2 {
		t.Fatalf("LeastCompared = %v, %v", due, err)
	}
	for _, want := range []int{2, 0} { // recorded differences are not new
		fresh, err := s.Upstream.ReplaceDrift(t.Context(), a.ID, true, []upstreamstate.Drift{{Kind: "tag", Name: "v1", Here: "sha256:aa"}, {Kind: "blob", Name: "sha256:bb"}})
		if err != nil || len(fresh) != want {
			t.Fatalf("%d are new, %v, want %d", len(fresh), err, want)
		}
	}
	found, count, err := s.Upstream.Drifts(t.Context(), 1, 1)
	if err != nil || count != 2 || len(found) != 1 || found[0].Repository != "acme/a" || found[0].Name != "v1" || found[0].Here != "sha256:aa" || found[0].Upstream != "" {
		t.Errorf("Drifts = %+v of %d, %v", found, count, err)
	}
	if err := s.Upstream.MarkCompared(t.Context(), a.ID); err != nil {
		t.Fatal(err)
	}
	if due, err := s.Upstream.LeastCompared(t.Context(), time.Now().Add(-time.Minute), 10); err != nil || len(due) != 1 || due[0].ID != b.ID {
		t.Errorf("LeastCompared = %v, %v", due, err)
	}
	if _, count, err := s.Upstream.Drifts(t.Context(), 10, 0); err != nil || count != 2 {
		t.Errorf("%d differences are left, %v", count, err)
	}
	if _, err := s.Upstream.ReplaceDrift(t.Context(), a.ID, false, nil); err != nil {
		t.Fatal(err)
	}
	if found, count, err := s.Upstream.Drifts(t.Context(), 10, 0); err != nil || count != 1 || found[0].Kind != "blob" {
		t.Errorf("a comparison of tags leaves %v, %v; want the blob", found, err)
	}
	if _, err := s.Upstream.ReplaceDrift(t.Context(), a.ID, true, nil); err != nil {
		t.Fatal(err)
	}
	if _, count, err := s.Upstream.Drifts(t.Context(), 10, 0); err != nil || count != 0 {
		t.Errorf("%d differences are left, %v", count, err)
	}
}

// TestRemovedManifests proves that HadManifest knows manifests that left the last version.
func TestRemovedManifests(t *testing.T) {
	t.Parallel()
	for name, gone := range map[string]func(*testing.T, *store.Store, string) digest.Digest{
		"whose versions are not retained": func(t *testing.T, s *store.Store, id string) digest.Digest {
			one := int64(1)
			if _, err := s.Catalog.EditRepository(t.Context(), nil, pulp.ContainerPush, id, func(r *pulp.Repository) { r.RetainRepoVersions = &one }); err != nil {
				t.Fatal(err)
			}
			m, _ := storetest.PushImage(t, s, id, "one", "v1")
			if _, err := s.Content.DeleteManifest(t.Context(), id, m.Digest); err != nil {
				t.Fatal(err)
			}
			return m.Digest
		},
		"that was pushed by its digest": func(t *testing.T, s *store.Store, id string) digest.Digest {
			m, _ := storetest.PushImage(t, s, id, "one")
			if _, err := s.Content.DeleteManifest(t.Context(), id, m.Digest); err != nil {
				t.Fatal(err)
			}
			return m.Digest
		},
		"that only the latest version held": func(t *testing.T, s *store.Store, id string) digest.Digest {
			m, v := storetest.PushImage(t, s, id, "one", "v1")
			if err := s.Content.DeleteVersion(t.Context(), nil, id, v.Number); err != nil {
				t.Fatal(err)
			}
			return m.Digest
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := storetest.Open(t)
			s.Content.EnableOutbox()
			id, other := storetest.Target(t, s, "acme/app").Repository.ID, storetest.Target(t, s, "acme/other").Repository.ID
			d := gone(t, s, id)
			if _, held, err := s.Upstream.HeldManifest(t.Context(), id, d); err != nil || held {
				t.Errorf("HeldManifest = %t, %v", held, err)
			}
			for repositoryID, want := range map[string]bool{id: true, other: false} {
				if had, err := s.Upstream.HadManifest(t.Context(), repositoryID, d); err != nil || had != want {
					t.Errorf("HadManifest = %t, %v, want %t", had, err, want)
				}
			}
		})
	}
}
