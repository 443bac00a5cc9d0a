// Package jobs is what the tasks do, and the housekeeping that runs without one.
//
// A job starts from what the database says, so that it may run twice, and stores its results in the transaction that
// completes its task.
package jobs

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/countersign/countersign/internal/adopt"
	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/ingest"
	"github.com/countersign/countersign/internal/mirror"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/signonpush"
	"github.com/countersign/countersign/internal/signservice"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/storage"
	"github.com/countersign/countersign/tasks"
)

// Options say what the jobs need.
type Options struct {
	Store *store.Store
	Log   *slog.Logger
	// Signer makes the signatures of sign tasks.
	Signer *signservice.Signer
	// SignOnPush runs the changes of repositories that sign on push.
	SignOnPush *signonpush.Runner
	// SigningUse decides which repositories may use which signing services.
	SigningUse pulp.SigningUse
	// Host is the host, with its port where it has one, that docker references begin with (D5).
	Host string
	// Parallel is how many signatures one task makes at a time.
	Parallel int
	// Mirror reaches remotes.
	Mirror *mirror.Network
	// Blobs takes in what they send, and Validator validates their signatures.
	Blobs     ingest.Blobs
	Validator ingest.SignatureValidator
	// AllowShrink lets every sync with mirror remove more than half of the tags that its remote listed before, and SkipCorrupt lets every sync leave corrupt images out.
	AllowShrink, SkipCorrupt bool
	// SyncTimeout is how long one sync may take; 0 is a day.
	SyncTimeout time.Duration
	// Upstream is the registry behind this one, where manifests go too; nil when there is none.
	Upstream storage.Manifests
	// Adopter takes in what the upstream has; nil when there is none.
	Adopter *adopt.Adopter
}

// All returns the jobs by the names of their tasks.
func All(o Options) map[string]tasks.Job {
	return map[string]tasks.Job{
		tasks.Sign:               permitted(signer{o}.run, o.maySign),
		tasks.Seal:               {Run: with(o.seal)}, // the server's own
		tasks.Sync:               permitted(syncer{o}.run, o.maySync),
		tasks.Tag:                o.sealed(permitted(o.tag, o.mayTag)),
		tasks.Untag:              permitted(o.untag, o.mayTag),
		tasks.AddContent:         o.sealed(permitted(o.addContent, o.mayAdd)),
		tasks.RemoveContent:      o.sealed(permitted(o.removeContent, o.mayRemove)),
		tasks.RemoveSignatures:   permitted(o.removeSignatures, o.mayRemoveSignatures),
		tasks.Repair:             permitted(o.repair, o.onVersion(auth.Modify)),
		tasks.Restore:            o.sealed(permitted(o.restore, o.onVersion(auth.Modify))),
		tasks.DeleteVersion:      o.sealed(permitted(o.deleteVersion, o.onVersion(auth.Delete))),
		tasks.Create:             o.sealed(permitted(o.create, o.mayCreate)),
		tasks.Edit:               o.sealed(permitted(o.edit, o.mayEdit)),
		tasks.Delete:             permitted(o.delete, o.mayDelete),
		tasks.DeleteDistribution: permitted(o.delete, o.mayDelete),
		tasks.Adopt:              permitted(o.adopt, administrator[tasks.AdoptArgs]),
		tasks.Compare:            permitted(o.compare, administrator[tasks.CompareArgs]),
		tasks.Migrate:            permitted(o.migrate, o.mayMigrate),
		tasks.CleanOrphans:       permitted(o.cleanOrphans, administrator[tasks.OrphanArgs]),
		tasks.Purge:              totalled(permitted(o.purge, administrator[tasks.PurgeArgs])),
	}
}

// with makes the work of a job of a function that wants the task's arguments.
func with[T any](job func(context.Context, *tasks.Run, T) error) func(context.Context, *tasks.Run) error {
	return func(ctx context.Context, r *tasks.Run) error {
		var args T
		if err := r.Decode(&args); err != nil {
			return err
		}
		return job(ctx, r, args)
	}
}

func (o Options) create(ctx context.Context, r *tasks.Run, args tasks.CreateArgs) error {
	var d pulp.Distribution
	args.Distribution.Apply(&d)
	_, err := o.Store.CreateDistribution(ctx, r.Claim, d)
	return err
}

func (o Options) edit(ctx context.Context, r *tasks.Run, args tasks.EditArgs) (err error) {
	switch {
	case args.Remote != nil:
		_, err = o.Store.EditRemote(ctx, r.Claim, args.ID, args.Remote.Apply)
	case args.Distribution != nil:
		_, err = o.Store.EditDistribution(ctx, r.Claim, args.ID, args.Distribution.Apply)
	case args.Repository != nil:
		_, err = o.Store.EditRepository(ctx, r.Claim, repositoryType(args.Collection), args.ID, args.Repository.Apply)
	default:
		err = fmt.Errorf("task %s edits nothing", r.Task.ID)
	}
	return err
}

// repositoryType is the type of the repositories of a collection.
func repositoryType(collection string) pulp.RepositoryType {
	if collection == pulp.PushCollection {
		return pulp.ContainerPush
	}
	return pulp.Container
}

func (o Options) delete(ctx context.Context, r *tasks.Run, args tasks.ObjectArgs) error {
	switch args.Collection {
	case pulp.DistributionCollection:
		return o.Store.DeleteDistribution(ctx, r.Claim, args.ID)
	case pulp.RemoteCollection:
		return o.Store.DeleteRemote(ctx, r.Claim, args.ID)
	case pulp.NamespaceCollection:
		return o.Store.DeleteNamespace(ctx, r.Claim, args.ID)
	case pulp.ContainerCollection, pulp.PushCollection:
		return o.Store.DeleteRepository(ctx, r.Claim, repositoryType(args.Collection), args.ID)
	}
	return fmt.Errorf("task %s deletes nothing: collection %q", r.Task.ID, args.Collection)
}

func (o Options) migrate(ctx context.Context, r *tasks.Run, args tasks.ObjectArgs) error {
	return o.Store.MigrateRepository(ctx, r.Claim, args.ID)
}

// purgeBatch is how many rows one transaction of housekeeping removes at most, so that it never holds the others up.
const purgeBatch = 500

func (o Options) purge(ctx context.Context, r *tasks.Run, args tasks.PurgeArgs) error {
	report := r.Report("purge.tasks.key.core.Task", "Purged task-objects of type core.Task", -1)
	for {
		n, err := o.Store.PurgeTasks(ctx, time.UnixMicro(args.FinishedBefore), args.States, purgeBatch)
		if err != nil {
			return err
		}
		report.Add(int(n))
		if n < purgeBatch {
			return report.Complete(ctx)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}
