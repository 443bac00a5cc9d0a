// Package jobs is what the tasks do, and the housekeeping that runs without one.
//
// A job starts from what the database says, so that it may run twice, and stores its results in the transaction that
// completes its task.
package jobs

import (
	"context"
	"log/slog"
	"time"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/tasks"
)

// Options say what the jobs need.
type Options struct {
	Store *store.Store
	Log   *slog.Logger
	// SignerFor returns the maker of a service's signatures.
	SignerFor func(pulp.SigningService) (signing.Signer, error)
	// Host is the host, with its port where it has one, that docker references begin with (D5).
	Host string
	// Parallel is how many signatures one task makes at a time.
	Parallel int
}

// All returns the jobs by the names of their tasks.
func All(o Options) map[string]tasks.Job {
	return map[string]tasks.Job{
		tasks.Sign:               signer{o}.run,
		tasks.EditRepository:     o.editRepository,
		tasks.DeleteDistribution: o.deleteDistribution,
		tasks.Purge:              o.purge,
	}
}

func (o Options) editRepository(ctx context.Context, r *tasks.Run) error {
	var args tasks.EditRepositoryArgs
	if err := r.Decode(&args); err != nil {
		return err
	}
	edit := store.RepositoryEdit{Name: args.Fields.Name, SigningServiceID: args.Fields.SigningServiceID}
	if f := args.Fields.Description; f.Set {
		edit.Description = &f.Value
	}
	if f := args.Fields.RetainRepoVersions; f.Set {
		edit.RetainRepoVersions = &f.Value
	}
	if f := args.Fields.Labels; f != nil {
		labels := pulp.Labels(*f)
		edit.Labels = &labels
	}
	_, err := o.Store.EditRepository(ctx, r.Claim, args.Type, args.RepositoryID, edit)
	return err
}

func (o Options) deleteDistribution(ctx context.Context, r *tasks.Run) error {
	var args tasks.DeleteDistributionArgs
	if err := r.Decode(&args); err != nil {
		return err
	}
	return o.Store.DeleteDistribution(ctx, r.Claim, args.DistributionID)
}

// purgeBatch is how many rows one transaction of housekeeping removes at most, so that it never holds the others up.
const purgeBatch = 500

func (o Options) purge(ctx context.Context, r *tasks.Run) error {
	var args tasks.PurgeArgs
	if err := r.Decode(&args); err != nil {
		return err
	}
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
