package store

import (
	"errors"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/pulp"
)

// TestWrittenWhileAPushHoldsTheTag notes a tag as written while a push of another image to it is about to be committed. That push is still to be written.
func TestWrittenWhileAPushHoldsTheTag(t *testing.T) {
	t.Parallel()
	s := open(t)
	if s.postgres == nil {
		t.Skip("SQLite has one writer")
	}
	s.KeepOutbox()
	id := target(t, s, "acme/app").Repository.ID
	two, _ := pushImage(t, s, id, "two", "other")
	written(t, s)
	pushImage(t, s, id, "one", "v1")
	due, err := s.OutboxTags(t.Context(), 10)
	if err != nil || len(due) != 1 {
		t.Fatalf("OutboxTags = %v, %v", due, err)
	}
	noted := make(chan error, 1)
	if err := s.inTx(t.Context(), func(x *tx) error {
		c, err := x.begin(id)
		if err != nil {
			return err
		}
		manifest, _, err := c.content(pulp.KindManifest, string(two.Digest))
		if err := errors.Join(err, c.tag("v1", manifest)); err != nil {
			return err
		}
		go func() { noted <- s.WroteTags(t.Context(), due) }()
		for waiting, deadline := 0, time.Now().Add(20*time.Second); waiting == 0; {
			if time.Now().After(deadline) {
				return errors.New("nothing waits for the push")
			}
			if err := s.read.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&waiting); err != nil {
				return err
			}
		}
		_, err = c.end()
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
