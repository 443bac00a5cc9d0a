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
	"github.com/countersign/countersign/internal/intake"
	"github.com/countersign/countersign/internal/mirror"
	"github.com/countersign/countersign/internal/notary"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/storage"
	"github.com/countersign/countersign/tasks"
)

// Options say what the jobs need.
type Options struct {
	Store *store.Store
	Log   *slog.Logger
	// Notary has manifests signed.
	Notary *notary.Notary
	// Host is the host, with its port where it has one, that docker references begin with (D5).
	Host string
	// Parallel is how many signatures one task makes at a time.
	Parallel int
	// Mirror reaches remotes.
	Mirror *mirror.Network
	// Blobs takes in what they send, and Judge decides about their signatures.
	Blobs intake.Blobs
	Judge intake.Judge
	// Upstream is the registry behind this one, where manifests go too; nil when there is none.
	Upstream storage.Manifests
	// Adopter takes in what the upstream has; nil when there is none.
	Adopter *adopt.Adopter
}

// All returns the jobs by the names of their tasks.
func All(o Options) map[string]tasks.Job {
	return map[string]tasks.Job{
		tasks.Sign:               signer{o}.run,
		tasks.Seal:               with(o.seal),
		tasks.Sync:               syncer{o}.run,
		tasks.Tag:                o.sealed(with(o.tag)),
		tasks.Untag:              with(o.untag),
		tasks.AddContent:         o.sealed(with(o.addContent)),
		tasks.RemoveContent:      o.sealed(with(o.removeContent)),
		tasks.RemoveSignatures:   with(o.removeSignatures),
		tasks.Repair:             with(o.repair),
		tasks.Restore:            o.sealed(with(o.restore)),
		tasks.DeleteVersion:      o.sealed(with(o.deleteVersion)),
		tasks.Create:             o.sealed(with(o.create)),
		tasks.Edit:               o.sealed(with(o.edit)),
		tasks.Delete:             with(o.delete),
		tasks.DeleteDistribution: with(o.delete),
		tasks.Adopt:              with(o.adopt),
		tasks.Compare:            with(o.compare),
		tasks.Migrate:            with(o.migrate),
		tasks.CleanOrphans:       with(o.cleanOrphans), tasks.Purge: totalled(with(o.purge)),
	}
}

// with makes a job of a function that wants the task's arguments.
func with[T any](job func(context.Context, *tasks.Run, T) error) tasks.Job {
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
