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
	"github.com/countersign/countersign/storage"
)

// How the outbox works.
const (
	outboxEvery    = 250 * time.Millisecond // how often it is looked into
	outboxPause    = 5 * time.Second        // after a failure that is not one tag's: the upstream or the database is away; twice as long after each further one
	outboxLongest  = 15 * time.Second       // and at most so long
	outboxBatch    = 100                    // how many tags one look takes
	outboxParallel = 4                      // how many of them are written at a time
	outboxFirst    = time.Second            // how long a tag waits after its first failure; twice as long after each further one
	outboxMost     = 5 * time.Minute        // and at most so long
	keepEvery      = 10 * time.Minute       // how often it is looked which hidden tags are needed
)

// Outbox writes tags through to the upstream, each at one time only: always what a tag stands for now, however it came to (architecture
// 3, step 5). A failure is tried again and undoes nothing here.
type Outbox struct {
	Store    *store.Store
	Upstream storage.Manifests
	Adopter  *adopt.Adopter
	Log      *slog.Logger
}

// Run empties the outbox again and again until ctx ends.
func (o Outbox) Run(ctx context.Context) {
	var kept time.Time
	pause, together := outboxPause, outboxParallel
	for {
		if o.Adopter.Pin && time.Since(kept) > keepEvery {
			if err := o.keep(ctx); err != nil && ctx.Err() == nil {
				o.Log.WarnContext(ctx, "hidden tags upstream are not as they should be for now", slog.Any("err", err))
			}
			kept = time.Now()
		}
		wait := outboxEvery
		if err := o.empty(ctx, together); err == nil {
			pause, together = outboxPause, outboxParallel
		} else if ctx.Err() == nil {
			o.Log.WarnContext(ctx, "tags wait to be written through", slog.Duration("again_after", pause), slog.Any("err", err))
			wait, pause = pause, min(2*pause, outboxLongest)
			together = 1 // should one of them be what the upstream goes down of, it takes no other with it
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// keep makes the hidden tags that are needed and drops those that are not.
func (o Outbox) keep(ctx context.Context) error {
	return o.Store.Alone(ctx, store.WritingThrough, func(func() error) error {
		if err := o.Adopter.UnpinManifests(ctx); err != nil {
			return err
		}
		return o.Adopter.PinManifests(ctx, "")
	})
}

// empty writes through what waits, so many tags at a time. Several servers look, and one at a time writes: it reads again what there is when its turn has come.
func (o Outbox) empty(ctx context.Context, together int) error {
	due, err := o.Store.OutboxTags(ctx, 1)
	if err != nil || len(due) == 0 {
		return err
	}
	return o.Store.Alone(ctx, store.WritingThrough, func(still func() error) error {
		for ctx.Err() == nil {
			due, err := o.Store.OutboxTags(ctx, outboxBatch)
			if err != nil || len(due) == 0 {
				return err
			}
			if err := o.keepOf(ctx, due); err != nil {
				return err
			}
			for some := range slices.Chunk(due, together) {
				if err := errors.Join(still(), o.Store.WritingTags(ctx, some)); err != nil {
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

// keepOf keeps what tags are about to leave.
func (o Outbox) keepOf(ctx context.Context, due []store.OutboxTag) error {
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

// send writes tags at the same time and notes what came of them, also when this process is about to end. It is an error that the upstream, or the database, does not answer to
// anything: what waits for that need not wait any longer once it does.
func (o Outbox) send(ctx context.Context, tags []store.OutboxTag) error {
	errs := make([]error, len(tags))
	var sending sync.WaitGroup
	for i := range tags {
		sending.Go(func() { tags[i].Undeleted, errs[i] = o.write(ctx, tags[i]) })
	}
	sending.Wait()
	noting := context.WithoutCancel(ctx)
	var written []store.OutboxTag
	var away error
	for i, t := range tags {
		if errs[i] == nil {
			written = append(written, t)
			continue
		}
		if fault.IsOutage(errs[i], fault.Upstream) && (away != nil || o.Adopter.IsFatal(ctx, errs[i])) {
			away = errs[i]
			if err := o.Store.LastInLine(noting, t); err != nil {
				return err
			}
			continue
		}
		wait := min(outboxFirst<<min(t.Attempts, 20), outboxMost)
		o.Log.WarnContext(ctx, "tag not written through; it is tried again", slog.String("repository", t.Repository), slog.String("tag", t.Name),
			slog.Duration("after", wait), slog.Any("err", errs[i]))
		if err := o.Store.PutOffTag(noting, t, wait); err != nil {
			return err
		}
	}
	return errors.Join(o.Store.WroteTags(noting, written), away)
}

// write writes one tag and returns what the upstream goes on showing under it though it is gone here.
func (o Outbox) write(ctx context.Context, t store.OutboxTag) (undeleted string, err error) {
	repo := pulp.Repository{ID: t.RepositoryID, Name: t.Repository}
	if t.Digest != "" {
		return "", o.Adopter.Put(ctx, repo, t.Name, digest.Digest(t.Digest))
	}
	err = o.Upstream.DeleteManifest(ctx, repo.UpstreamName(), t.Name)
	if !errors.Is(err, storage.ErrUnsupported) {
		return "", err
	}
	o.Log.WarnContext(ctx, "the upstream does not delete tags; it keeps one that is gone here",
		slog.String("repository", t.Repository), slog.String("tag", t.Name))
	shown, err := o.Upstream.Resolve(ctx, repo.UpstreamName(), t.Name)
	if errors.Is(err, storage.ErrNotFound) {
		return "", nil
	}
	return string(shown), err
}
