package upstreamstate_test

import (
	"errors"
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

// TestWrittenWhileAPushHoldsTheTag proves that a tag stays in the outbox if a push commits while an earlier write is
// recorded.
func TestWrittenWhileAPushHoldsTheTag(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	if !s.DB.IsPostgres() {
		t.Skip("SQLite has one writer")
	}
	s.Content.EnableOutbox()
	id := storetest.Target(t, s, "acme/app").Repository.ID
	two, _ := storetest.PushImage(t, s, id, "two", "other")
	written(t, s)
	storetest.PushImage(t, s, id, "one", "v1")
	due, err := s.Upstream.OutboxTags(t.Context(), 10)
	if err != nil || len(due) != 1 {
		t.Fatalf("OutboxTags = %v, %v", due, err)
	}
	noted := make(chan error, 1)
	if err := s.Content.InTx(t.Context(), func(x *content.Tx) error {
		c, err := x.Begin(id)
		if err != nil {
			return err
		}
		manifest, _, err := c.Held(pulp.KindManifest, string(two.Digest))
		if err := errors.Join(err, c.SetTag("v1", manifest)); err != nil {
			return err
		}
		go func() { noted <- s.Upstream.MarkWritten(t.Context(), due) }()
		for waiting, deadline := 0, time.Now().Add(3*time.Minute); waiting == 0; {
			if time.Now().After(deadline) {
				return errors.New("nothing waits for the push")
			}
			if err := s.DB.Read().QueryRowContext(t.Context(), `SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&waiting); err != nil {
				return err
			}
		}
		_, err = c.End()
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := <-noted; err != nil {
		t.Fatal(err)
	}
	if got := upstreamTag(t, s, id, "v1"); got.Here != two.Digest || !got.Dirty {
		t.Errorf("v1 is %+v, want %s, and that it waits", got, two.Digest)
	}
}

// writing records the start of the write of the only tag in the outbox.
func writing(t *testing.T, s *store.Store) []upstreamstate.OutboxTag {
	t.Helper()
	due, err := s.Upstream.OutboxTags(t.Context(), 10)
	if err != nil || len(due) != 1 {
		t.Fatalf("OutboxTags = %v, %v", due, err)
	}
	if err := s.Upstream.MarkWriting(t.Context(), due); err != nil {
		t.Fatal(err)
	}
	return due
}

// givenUp records a write without an answer.
func givenUp(t *testing.T, s *store.Store) {
	t.Helper()
	if err := s.Upstream.DelayTag(t.Context(), writing(t, s)[0], 0); err != nil {
		t.Fatal(err)
	}
}

// wrote records a successful write.
func wrote(t *testing.T, s *store.Store) {
	t.Helper()
	if err := s.Upstream.MarkWritten(t.Context(), writing(t, s)); err != nil {
		t.Fatal(err)
	}
}

// mayArrive compares the late writes of v1; an empty digest is a deletion.
func mayArrive(t *testing.T, s *store.Store, repositoryID string, want ...digest.Digest) {
	t.Helper()
	got := upstreamTag(t, s, repositoryID, "v1").Late
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the late writes of v1 are %q, want %q", got, want)
	}
}

// TestLateWrites proves that started writes count as late until they have been answered or an hour has passed.
func TestLateWrites(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	s.Content.EnableOutbox()
	id := storetest.Target(t, s, "acme/app").Repository.ID
	one, _ := storetest.PushImage(t, s, id, "one", "v1")
	first := writing(t, s)
	mayArrive(t, s, id, one.Digest)
	if err := s.Upstream.MarkWritten(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	mayArrive(t, s, id)
	two, _ := storetest.PushImage(t, s, id, "two", "v1")
	lost := writing(t, s) // the process ends
	three, _ := storetest.PushImage(t, s, id, "three", "v1")
	if err := s.Upstream.DelayTag(t.Context(), lost[0], time.Hour); err != nil { // the tag has changed since
		t.Fatal(err)
	}
	wrote(t, s)
	mayArrive(t, s, id, two.Digest)
	if got := upstreamTag(t, s, id, "v1"); got.Here != three.Digest || got.Dirty || got.Attempts != 0 {
		t.Errorf("v1 is %+v", got)
	}
	four, _ := storetest.PushImage(t, s, id, "four", "v1")
	givenUp(t, s)
	wrote(t, s) // the second attempt: the first may still arrive
	mayArrive(t, s, id, two.Digest, four.Digest)
	later := time.Now().Add(upstreamstate.Lateness + time.Minute)
	s.DB.SetClock(func() time.Time { return later })
	mayArrive(t, s, id)
}

// TestLateWriteOfRestoredTag moves a tag away and back to an image while the first write may still arrive.
func TestLateWriteOfRestoredTag(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	s.Content.EnableOutbox()
	id := storetest.Target(t, s, "acme/app").Repository.ID
	one, _ := storetest.PushImage(t, s, id, "one", "v1")
	givenUp(t, s)
	for _, text := range []string{"two", "one", "three"} {
		storetest.PushImage(t, s, id, text, "v1")
		wrote(t, s)
	}
	mayArrive(t, s, id, one.Digest)
}

// TestLateDeletions proves that deletions may be late like writes, and differ from tags that the upstream does not delete.
func TestLateDeletions(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	s.Content.EnableOutbox()
	id := storetest.Target(t, s, "acme/app").Repository.ID
	remove := func() {
		t.Helper()
		if _, err := s.Content.DeleteTag(t.Context(), id, "v1", nil); err != nil {
			t.Fatal(err)
		}
	}
	storetest.PushImage(t, s, id, "one", "v1")
	wrote(t, s)
	remove()
	wrote(t, s)
	mayArrive(t, s, id)
	one, _ := storetest.PushImage(t, s, id, "one", "v1")
	givenUp(t, s)
	remove()
	givenUp(t, s)
	wrote(t, s)
	mayArrive(t, s, id, "", one.Digest)
	if got := upstreamTag(t, s, id, "v1"); !got.Ours(one.Digest) || !got.Ours("") || got.Ours(digest.FromString("other")) {
		t.Errorf("of %+v something is not known for ours, or too much is", got)
	}
	two, _ := storetest.PushImage(t, s, id, "two", "v1")
	wrote(t, s)
	remove()
	due := writing(t, s)
	due[0].Undeleted = string(two.Digest)
	if err := s.Upstream.MarkWritten(t.Context(), due); err != nil {
		t.Fatal(err)
	}
	mayArrive(t, s, id, "", one.Digest)
	if got := upstreamTag(t, s, id, "v1"); !slices.Equal(got.Undeleted, []digest.Digest{two.Digest}) || !got.Ours(two.Digest) {
		t.Errorf("v1 is %+v, want that %s stays upstream", got, two.Digest)
	}
	storetest.PushImage(t, s, id, "two", "v1") // now it shall be there
	wrote(t, s)
	mayArrive(t, s, id, "", one.Digest)
	if got := upstreamTag(t, s, id, "v1"); len(got.Undeleted) > 0 || got.Dirty {
		t.Errorf("v1 is %+v, want that nothing stays upstream that was deleted here", got)
	}
}

// TestRename proves that all tags are written under the new name and that deletions under the old one are dropped.
func TestRename(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	s.Content.EnableOutbox()
	id := storetest.Target(t, s, "acme/app").Repository.ID
	edit := func(edit func(*pulp.Repository)) {
		t.Helper()
		if _, err := s.Catalog.EditRepository(t.Context(), nil, pulp.ContainerPush, id, edit); err != nil {
			t.Fatal(err)
		}
	}
	waits := func(want ...string) (due []upstreamstate.OutboxTag) {
		t.Helper()
		due, err := s.Upstream.OutboxTags(t.Context(), 10)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, o := range due {
			got = append(got, o.Repository+":"+o.Name)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%v wait to be written, want %v", got, want)
		}
		return due
	}
	old, _ := storetest.PushImage(t, s, id, "old", "v1")
	givenUp(t, s)
	storetest.PushImage(t, s, id, "one", "v1", "v2", "gone")
	written(t, s)
	kept := upstreamstate.Pin{RepositoryID: id, Repository: "acme/app", Digest: old.Digest}
	if err := s.Upstream.PinManifest(t.Context(), kept); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Content.DeleteTag(t.Context(), id, "gone", nil); err != nil {
		t.Fatal(err)
	}
	midway := waits("acme/app:gone")
	edit(func(r *pulp.Repository) { r.RetainRepoVersions = nil })
	waits("acme/app:gone")
	mayArrive(t, s, id, old.Digest)

	edit(func(r *pulp.Repository) { r.Name = "acme/new" })
	waits("acme/new:v1", "acme/new:v2")
	mayArrive(t, s, id)
	if err := s.Upstream.MarkWritten(t.Context(), midway); err != nil { // under the old name
		t.Fatal(err)
	}
	waits("acme/new:v1", "acme/new:v2")
	if err := s.Upstream.PinManifest(t.Context(), kept); err != nil { // there too
		t.Fatal(err)
	}
	if unkept, err := s.Upstream.Unpinned(t.Context(), id, 10); err != nil || len(unkept) != 1 || unkept[0] != (upstreamstate.Pin{RepositoryID: id, Repository: "acme/new", Digest: old.Digest}) {
		t.Errorf("Unpinned = %v, %v, want the older image under the new name", unkept, err)
	}
	written(t, s)
	waits()

	// Names that are invalid in a registry share one upstream name.
	edit(func(r *pulp.Repository) { r.Name = "All of Ours" })
	written(t, s)
	edit(func(r *pulp.Repository) { r.Name = "All of Theirs" })
	waits()
}
