package jobs

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/storage"
)

// How the outbox works.
const (
	outboxEvery = 250 * time.Millisecond // how often it is looked into
	outboxBatch = 100                    // how many tags one look takes
	outboxFirst = time.Second            // how long a tag waits after its first failure; twice as long after each further one
	outboxMost  = 5 * time.Minute        // and at most so long
)

// Outbox writes tags through to the upstream, one at a time: always what a tag stands for now, however it came to (architecture
// 3, step 5). A failure is tried again and undoes nothing here.
type Outbox struct {
	Store    *store.Store
	Upstream storage.Manifests
	Log      *slog.Logger
}

// Run empties the outbox again and again until ctx ends.
func (o Outbox) Run(ctx context.Context) {
	tick := time.NewTicker(outboxEvery)
	defer tick.Stop()
	for {
		if err := o.empty(ctx); err != nil && ctx.Err() == nil {
			o.Log.WarnContext(ctx, "outbox stopped early", slog.Any("err", err))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// empty writes through what waits. Several servers look, and one at a time writes: it reads again what there is when its turn has come.
func (o Outbox) empty(ctx context.Context) error {
	due, err := o.Store.OutboxTags(ctx, 1)
	if err != nil || len(due) == 0 {
		return err
	}
	return o.Store.Alone(ctx, store.WritingThrough, func() error {
		for ctx.Err() == nil {
			due, err := o.Store.OutboxTags(ctx, outboxBatch)
			if err != nil || len(due) == 0 {
				return err
			}
			for _, t := range due {
				if err := o.send(ctx, t); err != nil {
					return err
				}
			}
		}
		return ctx.Err()
	})
}

// send writes one tag and notes what came of it. The error is the database's.
func (o Outbox) send(ctx context.Context, t store.OutboxTag) error {
	var err error
	if t.Digest == "" {
		err = o.Upstream.DeleteManifest(ctx, t.Repository, t.Name)
		if errors.Is(err, storage.ErrUnsupported) {
			o.Log.WarnContext(ctx, "the upstream does not delete tags; it keeps one that is gone here",
				slog.String("repository", t.Repository), slog.String("tag", t.Name))
			err = nil
		}
	} else {
		err = o.Upstream.PutManifest(ctx, t.Repository, t.Name, t.MediaType, t.Payload)
	}
	if err == nil {
		return o.Store.WroteTag(ctx, t)
	}
	wait := min(outboxFirst<<min(t.Attempts, 20), outboxMost)
	o.Log.WarnContext(ctx, "tag not written through; it is tried again", slog.String("repository", t.Repository), slog.String("tag", t.Name),
		slog.Duration("after", wait), slog.Any("err", err))
	return o.Store.PutOffTag(ctx, t, wait)
}
