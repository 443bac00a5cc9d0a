package store

import (
	"reflect"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

// fetchImage writes an image down as adoption does: its blobs lie upstream.
func fetchImage(t *testing.T, s *Store, repositoryID, text string) digest.Digest {
	t.Helper()
	part := func(text string) pulp.Descriptor {
		b := pulp.Blob{Digest: digest.FromString(text), Size: int64(len(text)), Location: "acme/app"}
		if err := s.FetchedBlob(t.Context(), repositoryID, "", b); err != nil {
			t.Fatal(err)
		}
		return pulp.Descriptor{Digest: b.Digest, Size: b.Size}
	}
	m := image(part("config "+text), part("layer "+text))
	if err := s.FetchedManifest(t.Context(), repositoryID, m); err != nil {
		t.Fatal(err)
	}
	return m.Digest
}

// written has the outbox written through.
func written(t *testing.T, s *Store) {
	t.Helper()
	due, err := s.OutboxTags(t.Context(), 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range due {
		if err := s.WroteTag(t.Context(), o, ""); err != nil {
			t.Fatal(err)
		}
	}
}

func upstreamTag(t *testing.T, s *Store, repositoryID, name string) UpstreamTag {
	t.Helper()
	tags, err := s.UpstreamTags(t.Context(), repositoryID)
	if err != nil {
		t.Fatal(err)
	}
	return tags[name]
}

// TestAdoptionLosesToAPush adopts what a tag stood for upstream before somebody pushed it here. What was pushed stays.
func TestAdoptionLosesToAPush(t *testing.T) {
	t.Parallel()
	for name, between := range map[string]func(*testing.T, *Store, string){
		"a push that waits to be written through": func(t *testing.T, s *Store, id string) { pushImage(t, s, id, "mine", "v1") },
		"a push that was written through":         func(t *testing.T, s *Store, id string) { pushImage(t, s, id, "mine", "v1"); written(t, s) },
		"a push there and back": func(t *testing.T, s *Store, id string) {
			pushImage(t, s, id, "other", "v1")
			written(t, s)
			pushImage(t, s, id, "mine", "v1")
			written(t, s)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t)
			s.KeepOutbox()
			id := target(t, s, "acme/app").Repository.ID
			mine, _ := pushImage(t, s, id, "mine", "v1")
			written(t, s)
			seen := upstreamTag(t, s, id, "v1")
			if seen.Here != mine.Digest || seen.Written != mine.Digest || seen.Dirty || seen.Serial == 0 {
				t.Fatalf("the tag is %+v", seen)
			}
			theirs := fetchImage(t, s, id, "theirs")
			between(t, s, id)
			before := upstreamTag(t, s, id, "v1")
			v, err := s.CommitAdopted(t.Context(), Adopted{RepositoryID: id, Tags: map[string]AdoptedTag{"v1": {Digest: theirs, Serial: seen.Serial}}})
			if err != nil || v != nil {
				t.Errorf("the adoption made %+v, %v", v, err)
			}
			if after := upstreamTag(t, s, id, "v1"); !reflect.DeepEqual(after, before) || after.Here != mine.Digest {
				t.Errorf("the tag is %+v, and was %+v", after, before)
			}
		})
	}
}

// TestAdoption takes new and moved tags, which then count as written.
func TestAdoption(t *testing.T) {
	t.Parallel()
	s := open(t)
	s.KeepOutbox()
	id := target(t, s, "acme/app").Repository.ID
	pushImage(t, s, id, "mine", "v1")
	written(t, s)
	theirs := fetchImage(t, s, id, "theirs")
	v, err := s.CommitAdopted(t.Context(), Adopted{RepositoryID: id, Tags: map[string]AdoptedTag{
		"v1": {Digest: theirs, Serial: upstreamTag(t, s, id, "v1").Serial}, "new": {Digest: theirs},
	}})
	if err != nil {
		t.Fatal(err)
	}
	wantCounts(t, v, "4+2-0 2+1-0 0+0-0 2+2-1")
	for _, name := range []string{"v1", "new"} {
		if got := upstreamTag(t, s, id, name); got.Here != theirs || got.Written != theirs || got.Dirty {
			t.Errorf("%s is %+v", name, got)
		}
	}
	if due, err := s.OutboxTags(t.Context(), 10); err != nil || len(due) != 0 {
		t.Errorf("%v are to be written through, %v", due, err)
	}
	// A tag that was made here meanwhile is ours, though it never was upstream.
	pushImage(t, s, id, "mine", "made")
	if v, err := s.CommitAdopted(t.Context(), Adopted{RepositoryID: id, Tags: map[string]AdoptedTag{"made": {Digest: theirs}}}); err != nil || v != nil {
		t.Errorf("the adoption made %+v, %v", v, err)
	}
}

// TestKept keeps what a version holds, and no longer.
func TestKept(t *testing.T) {
	t.Parallel()
	s := open(t)
	id := target(t, s, "acme/app").Repository.ID
	m, _ := pushImage(t, s, id, "one", "v1")
	pushImage(t, s, id, "two", "v1")
	if got, held, err := s.HeldManifest(t.Context(), id, m.Digest); err != nil || !held || string(got.Payload) != string(m.Payload) {
		t.Errorf("HeldManifest = %+v, %t, %v", got, held, err)
	}
	for range 2 {
		if err := s.KeptManifest(t.Context(), id, m.Digest); err != nil {
			t.Fatal(err)
		}
	}
	if needless, err := s.NeedlesslyKept(t.Context(), 10); err != nil || len(needless) != 0 {
		t.Errorf("NeedlesslyKept = %v, %v", needless, err)
	}
	if _, err := s.DeleteManifest(t.Context(), id, m.Digest); err != nil {
		t.Fatal(err)
	}
	for number := range int64(3) { // all that held it
		if err := s.DeleteVersion(t.Context(), nil, id, number); err != nil {
			t.Fatal(err)
		}
	}
	needless, err := s.NeedlesslyKept(t.Context(), 10)
	if err != nil || len(needless) != 1 || needless[0].Digest != m.Digest || needless[0].Repository != "acme/app" {
		t.Fatalf("NeedlesslyKept = %v, %v", needless, err)
	}
	if err := s.ForgetKept(t.Context(), needless[0]); err != nil {
		t.Fatal(err)
	}
	if needless, err := s.NeedlesslyKept(t.Context(), 10); err != nil || len(needless) != 0 {
		t.Errorf("NeedlesslyKept = %v, %v", needless, err)
	}
}

// TestDrift replaces what was found before, and knows what was compared when.
func TestDrift(t *testing.T) {
	t.Parallel()
	s := open(t)
	a, b := target(t, s, "acme/a").Repository, target(t, s, "acme/b").Repository
	if due, err := s.LeastCompared(t.Context(), time.Now(), 10); err != nil || len(due) != 2 {
		t.Fatalf("LeastCompared = %v, %v", due, err)
	}
	for range 2 {
		if err := s.Compared(t.Context(), a.ID, true, []Drift{{Kind: "tag", Name: "v1", Here: "sha256:aa"}, {Kind: "blob", Name: "sha256:bb"}}); err != nil {
			t.Fatal(err)
		}
	}
	found, count, err := s.Drifts(t.Context(), 1, 1)
	if err != nil || count != 2 || len(found) != 1 || found[0].Repository != "acme/a" || found[0].Name != "v1" || found[0].Here != "sha256:aa" || found[0].Upstream != "" {
		t.Errorf("Drifts = %+v of %d, %v", found, count, err)
	}
	if err := s.HadTurn(t.Context(), a.ID); err != nil {
		t.Fatal(err)
	}
	if due, err := s.LeastCompared(t.Context(), time.Now().Add(-time.Minute), 10); err != nil || len(due) != 1 || due[0].ID != b.ID {
		t.Errorf("LeastCompared = %v, %v", due, err)
	}
	if _, count, err := s.Drifts(t.Context(), 10, 0); err != nil || count != 2 {
		t.Errorf("%d differences are left, %v", count, err)
	}
	if err := s.Compared(t.Context(), a.ID, false, nil); err != nil {
		t.Fatal(err)
	}
	if found, count, err := s.Drifts(t.Context(), 10, 0); err != nil || count != 1 || found[0].Kind != "blob" {
		t.Errorf("a look at the tags leaves %v, %v; want what only a deep one sees", found, err)
	}
	if err := s.Compared(t.Context(), a.ID, true, nil); err != nil {
		t.Fatal(err)
	}
	if _, count, err := s.Drifts(t.Context(), 10, 0); err != nil || count != 0 {
		t.Errorf("%d differences are left, %v", count, err)
	}
}

// TestAdoptTarget makes private repositories, takes its own, and leaves mirrors and others' paths alone.
func TestAdoptTarget(t *testing.T) {
	t.Parallel()
	s := open(t)
	r, made, err := s.AdoptTarget(t.Context(), "acme/app", pulp.ContainerPush, false)
	if err != nil || !made {
		t.Fatal(r, made, err)
	}
	if to, err := s.Resolve(t.Context(), "acme/app"); err != nil || !to.Distribution.Private || to.Repository.ID != r.ID {
		t.Errorf("Resolve = %+v, %v", to, err)
	}
	if again, made, err := s.AdoptTarget(t.Context(), "acme/app", pulp.ContainerPush, true); err != nil || made || again.ID != r.ID {
		t.Errorf("again: %+v, %t, %v", again, made, err)
	}
	if _, _, err := s.AdoptTarget(t.Context(), "acme/public", pulp.ContainerPush, true); err != nil {
		t.Fatal(err)
	}
	if to, err := s.Resolve(t.Context(), "acme/public"); err != nil || to.Distribution.Private {
		t.Errorf("Resolve = %+v, %v", to, err)
	}
	if _, err := s.CreateDistribution(t.Context(), nil, pulp.Distribution{Name: "other", BasePath: "acme/taken", RepositoryID: r.ID}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.AdoptTarget(t.Context(), "acme/taken", pulp.ContainerPush, false); !fault.Is(err, fault.Conflict) {
		t.Errorf("a path that serves another repository: %v", err)
	}
}
