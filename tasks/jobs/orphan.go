package jobs

import (
	"context"
	"errors"
	"time"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/sweep"
	"github.com/countersign/countersign/tasks"
)

// orphans is one orphan cleanup. It deletes the same content as the Housekeeper, and manifests that were pushed
// by digest and are in no version (compatibility.md#pending-content), and counts it.
type orphans struct {
	Housekeeper
	before             time.Time // younger content stays, because a push may be about to use it
	content, artifacts *tasks.Report
}

// cleanOrphans deletes unreferenced content that is older than args.Before: all of it, or only the units of the
// arguments (compatibility.md#orphan-cleanup).
func (o Options) cleanOrphans(ctx context.Context, r *tasks.Run, args tasks.OrphanArgs) error {
	c := orphans{
		Housekeeper: Housekeeper{Store: o.Store, Storage: o.Blobs.Storage, Log: o.Log, Embedded: o.Upstream == nil, Swept: o.Swept}, before: time.UnixMicro(args.Before),
		content:   r.Report("clean-up.content", "Clean up orphan Content", -1),
		artifacts: r.Report("clean-up.artifacts", "Clean up orphan Artifacts", -1),
	}
	clean := c.all
	if args.Units != nil {
		clean = func(ctx context.Context) error { return c.named(ctx, args.Units) }
	}
	if err := clean(ctx); err != nil {
		return err
	}
	return errors.Join(c.content.Complete(ctx), c.artifacts.Complete(ctx))
}

// all deletes every orphan. Pending manifests are first, since the content that they reference becomes orphaned
// by that.
func (c orphans) all(ctx context.Context) error {
	for _, sweep := range []struct {
		kind    string
		content bool // the deleted rows are content, not references to content
		batch   func(context.Context, time.Time, int) (int64, error)
	}{
		{sweptManifests, false, c.Store.Sweeps.SweepPendingManifests},
		{sweptPending, false, c.Store.Sweeps.SweepPending},
		{sweptFetched, false, c.Store.Sweeps.SweepFetched},
		{sweptOrphans, true, c.Store.Sweeps.SweepOrphans},
		{sweptBlobs, false, c.sweepBlobs}, // sweepBlobs counts content itself
	} {
		err := c.repeat(ctx, sweep.kind, func() (int64, error) {
			n, err := sweep.batch(ctx, c.before, purgeBatch)
			if sweep.content {
				c.content.Add(int(n))
			}
			return n, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (c orphans) sweepBlobs(ctx context.Context, before time.Time, limit int) (int64, error) {
	return c.countBlobs(ctx, func() ([]sweep.DoomedBlob, error) { return c.Store.Sweeps.DoomBlobs(ctx, before, limit) })
}

// countBlobs deletes blobs and their files. Each counts as content and as an artifact.
func (c orphans) countBlobs(ctx context.Context, doom func() ([]sweep.DoomedBlob, error)) (int64, error) {
	if !c.Embedded {
		return 0, nil
	}
	n, err := c.removeBlobs(ctx, doom)
	c.content.Add(int(n))
	c.artifacts.Add(int(n))
	return n, err
}

// named deletes those of the units that are orphans. It repeats this while units were deleted, since a list
// references its manifests, and a manifest its blobs.
func (c orphans) named(ctx context.Context, units []record.Unit) error {
	for {
		var left []record.Unit
		for _, u := range units {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			n, err := c.unit(ctx, u)
			if err != nil {
				return err
			}
			if n == 0 {
				left = append(left, u)
			}
		}
		if len(left) == 0 || len(left) == len(units) {
			return nil
		}
		units = left
	}
}

func (c orphans) unit(ctx context.Context, u record.Unit) (int64, error) {
	n, err := c.Store.Sweeps.SweepUnit(ctx, u, c.before)
	c.content.Add(int(n))
	c.count(sweptOrphans, n)
	if err != nil || n > 0 || u.Kind != pulp.KindBlob {
		return n, err
	}
	n, err = c.countBlobs(ctx, func() ([]sweep.DoomedBlob, error) { return c.Store.Sweeps.DoomBlob(ctx, u.ID, c.before) })
	c.count(sweptBlobs, n)
	return n, err
}

// removeBlobs deletes the files and rows of the blobs that doom marks, under a lock. It returns their number.
func (h Housekeeper) removeBlobs(ctx context.Context, doom func() ([]sweep.DoomedBlob, error)) (int64, error) {
	var n int64
	err := h.Store.DB.WithLock(ctx, sqldb.BlobRemoval, func(still func() error) error {
		doomed, err := doom()
		if err != nil {
			return err
		}
		for _, b := range doomed {
			if err := errors.Join(still(), context.Cause(ctx)); err != nil {
				return err
			}
			if err := h.Storage.Delete(ctx, b.Location, b.Digest); err != nil {
				return err
			}
			if err := h.Store.Sweeps.ForgetBlob(ctx, b.ID); err != nil {
				return err
			}
			n++
		}
		return nil
	})
	return n, err
}

// totalled adds the progress reports about the total number and about errors to a purge, as in Pulp
// (compatibility.md#tasks).
func totalled(purge tasks.Job) tasks.Job {
	work := purge.Run
	purge.Run = func(ctx context.Context, r *tasks.Run) error {
		total := r.Report("purge.tasks.total", "Purged task-related-objects total", -1)
		failed := r.Report("purge.tasks.error", "Errors while purging task-objects", -1)
		if err := work(ctx, r); err != nil {
			if ctx.Err() == nil {
				failed.Add(1)
			}
			return err
		}
		for _, p := range r.Finished() {
			total.Add(int(p.Done))
		}
		return errors.Join(total.Complete(ctx), failed.Complete(ctx))
	}
	return purge
}
