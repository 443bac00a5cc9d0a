package jobs

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/accounts"
	"github.com/countersign/countersign/internal/store/sweep"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/storage"
)

// Retention contains the ages at which unreferenced objects are deleted (compatibility.md#retention).
type Retention struct {
	Uploads time.Duration // unfinished uploads, since their last write
	// blobs that no manifest references, since their last use, and content fetched by unfinished syncs
	Pending time.Duration
	Orphans time.Duration // content that is in no version any more, since its creation
	Tasks   time.Duration // tasks, since their end
	Audit   time.Duration // entries of the audit log
	Events  time.Duration // deliveries to webhooks, since their end
}

// Housekeeper deletes unfinished uploads, unreferenced blobs, orphaned content, old tasks, expired API tokens, old entries of
// the audit log and old deliveries to webhooks. It deletes them in batches, so that no push waits long for it.
type Housekeeper struct {
	Store   *store.Store
	Storage storage.Storage
	Keep    Retention
	Log     *slog.Logger
	// Embedded is true if the storage is this server's own. An upstream's blobs are left to its garbage
	// collection.
	Embedded bool
	// Swept receives the numbers of deleted objects; nil: nothing does.
	Swept func(kind string, n int64)
}

// Kinds of objects that sweeps delete.
const (
	sweptUploads   = "uploads"
	sweptPending   = "pending blobs"
	sweptManifests = "pending manifests"
	sweptFetched   = "fetched content"
	sweptOrphans   = "orphans"
	sweptBlobs     = "blobs"
	sweptTasks     = "tasks"
	sweptAudit     = "audit entries"
	sweptTokens    = "expired API tokens" //nolint:gosec // a label

	sweptDeliveries = "webhook deliveries"
)

// SweptKinds returns all kinds of objects that sweeps delete.
func SweptKinds() []string {
	return []string{
		sweptUploads, sweptPending, sweptManifests, sweptFetched, sweptOrphans, sweptBlobs, sweptTasks, sweptAudit, sweptTokens,
		sweptDeliveries,
	}
}

// Run calls Clean immediately and then at each interval, until ctx ends.
func (h Housekeeper) Run(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if err := h.Clean(ctx); err != nil && ctx.Err() == nil {
			h.Log.WarnContext(ctx, "housekeeping stopped early", slog.Any("err", err))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Clean deletes all objects whose retention has ended.
func (h Housekeeper) Clean(ctx context.Context) error {
	now := time.Now()
	final := []taskstore.TaskState{taskstore.TaskCompleted, taskstore.TaskFailed, taskstore.TaskCanceled, taskstore.TaskSkipped}
	return errors.Join(
		h.uploads(ctx, now.Add(-h.Keep.Uploads)),
		h.leftovers(ctx, now.Add(-2*h.Keep.Uploads)), // twice the time, so that the rows of uploads are deleted before
		h.repeat(ctx, sweptPending, func() (int64, error) { return h.Store.Sweeps.SweepPending(ctx, now.Add(-h.Keep.Pending), purgeBatch) }),
		h.repeat(ctx, sweptFetched, func() (int64, error) { return h.Store.Sweeps.SweepFetched(ctx, now.Add(-h.Keep.Pending), purgeBatch) }),
		h.repeat(ctx, sweptOrphans, func() (int64, error) { return h.Store.Sweeps.SweepOrphans(ctx, now.Add(-h.Keep.Orphans), purgeBatch) }),
		h.unendedReleases(ctx),
		h.blobs(ctx, now.Add(-h.Keep.Orphans)),
		h.repeat(ctx, sweptTasks, func() (int64, error) {
			return h.Store.Tasks.PurgeTasks(ctx, now.Add(-h.Keep.Tasks), final, purgeBatch)
		}),
		h.repeat(ctx, sweptTokens, func() (int64, error) {
			return h.Store.Accounts.PurgeAPITokens(ctx, now.Add(-accounts.ExpiredKept), purgeBatch)
		}),
		h.repeat(ctx, sweptAudit, func() (int64, error) {
			return h.Store.Audits.Purge(ctx, now.Add(-h.Keep.Audit), purgeBatch)
		}),
		h.repeat(ctx, sweptDeliveries, func() (int64, error) {
			return h.Store.Webhooks.Purge(ctx, now.Add(-h.Keep.Events))
		}),
	)
}

// count reports deleted objects.
func (h Housekeeper) count(kind string, n int64) {
	if h.Swept != nil && n > 0 {
		h.Swept(kind, n)
	}
}

// repeat deletes batches until one is empty, and logs the total number.
func (h Housekeeper) repeat(ctx context.Context, kind string, batch func() (int64, error)) error {
	var total int64
	for ctx.Err() == nil {
		n, err := batch()
		total += n
		h.count(kind, n)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
	}
	if total > 0 {
		h.Log.InfoContext(ctx, "deleted unreferenced objects", slog.String("kind", kind), slog.Int64("count", total))
	}
	return ctx.Err()
}

func (h Housekeeper) uploads(ctx context.Context, before time.Time) error {
	return h.repeat(ctx, sweptUploads, func() (int64, error) {
		swept, err := h.Store.Sweeps.SweepUploads(ctx, before, purgeBatch)
		for _, u := range swept {
			if u.StorageRef == "" {
				continue
			}
			up, resumeErr := h.Storage.Resume(ctx, pulp.UpstreamName(u.Repository, u.RepositoryID), u.StorageRef, u.Size)
			if resumeErr == nil {
				resumeErr = up.Cancel(ctx)
			}
			if resumeErr != nil && !errors.Is(resumeErr, storage.ErrNotFound) {
				h.Log.WarnContext(ctx, "cannot delete the file of an unfinished upload", slog.String("upload", u.ID), slog.Any("err", resumeErr))
			}
		}
		return int64(len(swept)), err
	})
}

// leftovers deletes the files of uploads without a row. A process that was killed while it stored a whole blob
// leaves them.
func (h Housekeeper) leftovers(ctx context.Context, before time.Time) error {
	if s, ok := h.Storage.(interface {
		SweepUploads(context.Context, time.Time) error
	}); ok {
		return s.SweepUploads(ctx, before)
	}
	return nil
}

func (h Housekeeper) blobs(ctx context.Context, before time.Time) error {
	if !h.Embedded {
		return nil
	}
	return h.repeat(ctx, sweptBlobs, func() (int64, error) {
		return h.removeBlobs(ctx, func() ([]sweep.DoomedBlob, error) { return h.Store.Sweeps.DoomBlobs(ctx, before, purgeBatch) })
	})
}
