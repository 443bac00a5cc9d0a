package jobs

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/countersign/countersign/internal/adopt"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/storage"
)

// How the outbox works.
const (
	outboxEvery    = 250 * time.Millisecond // how often it is looked into
	outboxBatch    = 100                    // how many tags one look takes
	outboxParallel = 4                      // how many of them are written at a time
	outboxFirst    = time.Second            // how long a tag waits after its first failure; twice as long after each further one
	outboxMost     = 5 * time.Minute        // and at most so long
	dropEvery      = 10 * time.Minute       // how often hidden tags are looked for that nobody needs
)

// Outbox writes tags through to the upstream, each at one time only: always what a tag stands for now, however it came to (architecture
// 3, step 5). A failure is tried again and undoes nothing here.
type Outbox struct {
	Store    *store.Store
	Upstream storage.Manifests
	Log      *slog.Logger
	// Adopter keeps manifests alive upstream whose last tag moves on, if it is to; nil: nobody does.
	Adopter *adopt.Adopter
}

func (o Outbox) keeps() bool { return o.Adopter != nil && o.Adopter.Keep }

// Run empties the outbox again and again until ctx ends.
func (o Outbox) Run(ctx context.Context) {
	tick := time.NewTicker(outboxEvery)
	defer tick.Stop()
	var dropped time.Time
	for {
		if o.keeps() && time.Since(dropped) > dropEvery {
			if err := o.dropKept(ctx); err != nil && ctx.Err() == nil {
				o.Log.WarnContext(ctx, "hidden tags that nobody needs stay upstream for now", slog.Any("err", err))
			}
			dropped = time.Now()
		}
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
	return o.Store.Alone(ctx, store.WritingThrough, func(still func() error) error {
		for ctx.Err() == nil {
			due, err := o.Store.OutboxTags(ctx, outboxBatch)
			if err != nil || len(due) == 0 {
				return err
			}
			for some := range slices.Chunk(due, outboxParallel) {
				if err := still(); err != nil {
					return err
				}
				var sending errgroup.Group
				for _, t := range some {
					sending.Go(func() error { return o.send(ctx, t) })
				}
				if err := sending.Wait(); err != nil {
					return err
				}
			}
		}
		return ctx.Err()
	})
}

// send writes one tag and notes what came of it. The error is the database's.
func (o Outbox) send(ctx context.Context, t store.OutboxTag) error {
	stale, err := o.write(ctx, t)
	if err == nil {
		return o.Store.WroteTag(ctx, t, stale)
	}
	wait := min(outboxFirst<<min(t.Attempts, 20), outboxMost)
	o.Log.WarnContext(ctx, "tag not written through; it is tried again", slog.String("repository", t.Repository), slog.String("tag", t.Name),
		slog.Duration("after", wait), slog.Any("err", err))
	return o.Store.PutOffTag(ctx, t, wait)
}

// write writes one tag, after what it stood for is safe, and returns what the upstream goes on showing under it though it is gone here.
func (o Outbox) write(ctx context.Context, t store.OutboxTag) (stale string, err error) {
	if o.keeps() && t.Written != "" && t.Written != t.Digest {
		repo := pulp.Repository{ID: t.RepositoryID, Name: t.Repository}
		if err := o.Adopter.KeepAlive(ctx, repo, digest.Digest(t.Written)); err != nil {
			return "", err
		}
	}
	if t.Digest != "" {
		return "", o.Upstream.PutManifest(ctx, t.Repository, t.Name, t.MediaType, t.Payload)
	}
	err = o.Upstream.DeleteManifest(ctx, t.Repository, t.Name)
	if errors.Is(err, storage.ErrUnsupported) {
		o.Log.WarnContext(ctx, "the upstream does not delete tags; it keeps one that is gone here",
			slog.String("repository", t.Repository), slog.String("tag", t.Name))
		return t.Written, nil
	}
	return "", err
}

// dropKept removes the hidden tags of manifests that no version holds any more.
func (o Outbox) dropKept(ctx context.Context) error {
	for ctx.Err() == nil {
		needless, err := o.Store.NeedlesslyKept(ctx, outboxBatch)
		if err != nil || len(needless) == 0 {
			return err
		}
		for _, k := range needless {
			err := o.Upstream.DeleteManifest(ctx, k.Repository, adopt.HiddenTag(k.Digest))
			if err != nil && !errors.Is(err, storage.ErrUnsupported) {
				return err
			}
			if err := o.Store.ForgetKept(ctx, k); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}
