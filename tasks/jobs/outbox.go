package jobs

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/adopt"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/upstreamstate"
	"github.com/countersign/countersign/storage"
)

// Intervals and limits of the outbox.
const (
	outboxEvery = 250 * time.Millisecond // between checks for entries
	// after an outage of the upstream or the database; doubles with each further one
	outboxPause    = 5 * time.Second
	outboxLongest  = 15 * time.Second // longest pause after an outage
	outboxBatch    = 100              // entries that one query returns
	outboxParallel = 4                // entries that are written at a time
	outboxFirst    = time.Second      // after the first failure of an entry; doubles with each further one
	outboxMost     = 5 * time.Minute  // longest pause after a failure of an entry
	keepEvery      = 10 * time.Minute // between updates of hidden tags
)

// Outbox writes changed tags to the upstream. Only one server writes at a time, and it always writes the
// present digest of a tag. A failed write is retried and has no effect on the tag here.
type Outbox struct {
	Store    *store.Store
	Upstream storage.Manifests
	Adopter  *adopt.Adopter
	Log      *slog.Logger
}

// Run writes entries until ctx ends.
func (o Outbox) Run(ctx context.Context) {
	var kept time.Time
	pause, together := outboxPause, outboxParallel
	for {
		if o.Adopter.Pin && time.Since(kept) > keepEvery {
			if err := o.keep(ctx); err != nil && ctx.Err() == nil {
				o.Log.WarnContext(ctx, "cannot update hidden tags upstream; trying again later", slog.Any("err", err))
			}
			kept = time.Now()
		}
		wait := outboxEvery
		if err := o.empty(ctx, together); err == nil {
			pause, together = outboxPause, outboxParallel
		} else if ctx.Err() == nil {
			o.Log.WarnContext(ctx, "cannot write tags to the upstream; trying again", slog.Duration("again_after", pause), slog.Any("err", err))
			wait, pause = pause, min(2*pause, outboxLongest)
			together = 1 // one of the entries may be the cause: do not retry others together with it
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// keep creates the hidden tags that are needed and deletes those that are not.
func (o Outbox) keep(ctx context.Context) error {
	return o.Store.DB.WithLock(ctx, sqldb.OutboxWrites, func(func() error) error {
		if err := o.Adopter.UnpinManifests(ctx); err != nil {
			return err
		}
		return o.Adopter.PinManifests(ctx, "")
	})
}

// empty writes all entries that are due, together entries at a time. Every server checks, but only one at a
// time writes: it reads the entries again when it has the lock.
func (o Outbox) empty(ctx context.Context, together int) error {
	due, err := o.Store.Upstream.OutboxTags(ctx, 1)
	if err != nil || len(due) == 0 {
		return err
	}
	return o.Store.DB.WithLock(ctx, sqldb.OutboxWrites, func(still func() error) error {
		for ctx.Err() == nil {
			due, err := o.Store.Upstream.OutboxTags(ctx, outboxBatch)
			if err != nil || len(due) == 0 {
				return err
			}
			if err := o.keepOf(ctx, due); err != nil {
				return err
			}
			for some := range slices.Chunk(due, together) {
				if err := errors.Join(still(), o.Store.Upstream.MarkWriting(ctx, some)); err != nil {
					return err
				}
				if err := o.send(ctx, some); err != nil {
					return err
				}
			}
		}
		return ctx.Err()
	})
}

// keepOf pins the manifests of the repositories of entries, before their tags move away from those.
func (o Outbox) keepOf(ctx context.Context, due []upstreamstate.OutboxTag) error {
	done := map[string]bool{}
	for _, t := range due {
		if done[t.RepositoryID] {
			continue
		}
		done[t.RepositoryID] = true
		if err := o.Adopter.PinManifests(ctx, t.RepositoryID); err != nil {
			return err
		}
	}
	return nil
}

// send writes entries concurrently and records the results, even if ctx ends. It returns an error if the
// upstream or the database is unavailable. Such a failure does not count against an entry: all are written as
// soon as the outage ends.
func (o Outbox) send(ctx context.Context, tags []upstreamstate.OutboxTag) error {
	errs := make([]error, len(tags))
	var sending sync.WaitGroup
	for i := range tags {
		sending.Go(func() { tags[i].Undeleted, errs[i] = o.write(ctx, tags[i]) })
	}
	sending.Wait()
	noting := context.WithoutCancel(ctx)
	var written []upstreamstate.OutboxTag
	var away error
	for i, t := range tags {
		if errs[i] == nil {
			written = append(written, t)
			continue
		}
		if fault.IsOutage(errs[i], fault.Upstream) && (away != nil || o.Adopter.IsFatal(ctx, errs[i])) {
			away = errs[i]
			if err := o.Store.Upstream.RequeueTag(noting, t); err != nil {
				return err
			}
			continue
		}
		wait := min(outboxFirst<<min(t.Attempts, 20), outboxMost)
		o.Log.WarnContext(ctx, "cannot write a tag to the upstream; trying again", slog.String("repository", t.Repository), slog.String("tag", t.Name),
			slog.Duration("after", wait), slog.Any("err", errs[i]))
		if err := o.Store.Upstream.DelayTag(noting, t, wait); err != nil {
			return err
		}
	}
	return errors.Join(o.Store.Upstream.MarkWritten(noting, written), away)
}

// write writes one entry. If the upstream does not support deleting a tag, it returns the digest that the
// upstream still has under the tag.
func (o Outbox) write(ctx context.Context, t upstreamstate.OutboxTag) (undeleted string, err error) {
	repo := pulp.Repository{ID: t.RepositoryID, Name: t.Repository}
	if t.Digest != "" {
		return "", o.Adopter.Put(ctx, repo, t.Name, digest.Digest(t.Digest))
	}
	err = o.Upstream.DeleteManifest(ctx, repo.UpstreamName(), t.Name)
	if !errors.Is(err, storage.ErrUnsupported) {
		return "", err
	}
	o.Log.WarnContext(ctx, "the upstream does not support deleting tags; it keeps a tag that was deleted here",
		slog.String("repository", t.Repository), slog.String("tag", t.Name))
	shown, err := o.Upstream.Resolve(ctx, repo.UpstreamName(), t.Name)
	if errors.Is(err, storage.ErrNotFound) {
		return "", nil
	}
	return string(shown), err
}
