package upstreamstate_test

import (
	"testing"
	"time"

	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/internal/store/upstreamstate"
)

// TestDriftKeepsTime proves that a recorded difference keeps the time when it was found, and that a changed note makes it
// new.
func TestDriftKeepsTime(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	id := storetest.Target(t, s, "acme/app").Repository.ID
	now := time.Now().Truncate(time.Microsecond)
	for _, step := range []struct {
		note  string
		after time.Duration // of the comparison
		found time.Duration // expected time of the recorded difference
		fresh int
	}{
		{note: "a", fresh: 1},
		{note: "a", after: time.Hour},
		{note: "b", after: 2 * time.Hour, found: 2 * time.Hour, fresh: 1},
	} {
		s.DB.SetClock(func() time.Time { return now.Add(step.after) })
		drift := []upstreamstate.Drift{{Kind: "tag", Name: "v1", Upstream: "sha256:aa", Note: step.note}}
		fresh, err := s.Upstream.ReplaceDrift(t.Context(), id, false, drift)
		if err != nil || len(fresh) != step.fresh {
			t.Errorf("after %s ReplaceDrift = %+v, %v, want %d new", step.after, fresh, err, step.fresh)
		}
		all, _, err := s.Upstream.Drifts(t.Context(), 10, 0)
		if err != nil || len(all) != 1 || !all[0].Found.Equal(now.Add(step.found)) || all[0].Note != step.note {
			t.Errorf("after %s Drifts = %+v, %v, want it found after %s", step.after, all, err, step.found)
		}
	}
	if tags, err := s.Upstream.TagDrift(t.Context(), id); err != nil || tags["v1"].Upstream != "sha256:aa" {
		t.Errorf("TagDrift = %+v, %v", tags, err)
	}
}

// TestOutboxDelay proves that a rejected tag is due again after its delay, and an outage counts no rejection.
func TestOutboxDelay(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	s.Content.EnableOutbox()
	id := storetest.Target(t, s, "acme/app").Repository.ID
	storetest.PushImage(t, s, id, "one", "v1")
	now := time.Now()
	s.DB.SetClock(func() time.Time { return now })
	if err := s.Upstream.RequeueTag(t.Context(), writing(t, s)[0]); err != nil {
		t.Fatal(err)
	}
	tag := writing(t, s)[0]
	if tag.Attempts != 0 {
		t.Errorf("after an outage there are %d attempts", tag.Attempts)
	}
	if err := s.Upstream.DelayTag(t.Context(), tag, time.Minute); err != nil {
		t.Fatal(err)
	}
	if due, err := s.Upstream.OutboxTags(t.Context(), 10); err != nil || len(due) != 0 {
		t.Errorf("before the delay %+v are due, %v", due, err)
	}
	now = now.Add(time.Minute)
	if due, err := s.Upstream.OutboxTags(t.Context(), 10); err != nil || len(due) != 1 || due[0].Attempts != 1 {
		t.Errorf("after the delay %+v are due, %v, want one with one attempt", due, err)
	}
}
