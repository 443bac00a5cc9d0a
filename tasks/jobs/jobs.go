// Package jobs implements the tasks, and the housekeeping that runs without tasks.
//
// A job may run more than once, so it derives the remaining work from the database. It stores its results in
// the transaction that completes its task.
package jobs

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/adopt"
	"github.com/countersign/countersign/internal/ingest"
	"github.com/countersign/countersign/internal/mirror"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/signonpush"
	"github.com/countersign/countersign/internal/signservice"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/storage"
	"github.com/countersign/countersign/tasks"
)

// Options are the dependencies and settings of the jobs.
type Options struct {
	Store *store.Store
	Log   *slog.Logger
	// Access decides about the permissions of the users of tasks; nil: by the roles in Store alone.
	Access *access.Decider
	// Signer creates the signatures of sign tasks.
	Signer *signservice.Signer
	// SignOnPush runs changes of repositories that sign on push.
	SignOnPush *signonpush.Runner
	// SigningUse decides which repositories may use which signing services.
	SigningUse pulp.SigningUse
	// Host is the host, with its port if it has one, of docker references in signatures
	// (compatibility.md#docker-reference).
	Host string
	// Parallel is the number of signatures that one task creates at a time.
	Parallel int
	// Mirror connects to remotes.
	Mirror *mirror.Network
	// Blobs stores the blobs of remotes, and Validator validates their signatures.
	Blobs     ingest.Blobs
	Validator ingest.SignatureValidator
	// AllowShrink lets every sync with mirror remove more than half of the tags that the previous sync listed.
	// SkipCorrupt lets every sync skip corrupt images.
	AllowShrink, SkipCorrupt bool
	// SyncTimeout is the limit for one sync; 0: a day.
	SyncTimeout time.Duration
	// Upstream is the upstream registry, which receives manifests, too; nil if none is configured.
	Upstream storage.Manifests
	// Adopter adopts content of the upstream; nil if none is configured.
	Adopter *adopt.Adopter
	// Swept receives the numbers of objects that orphan cleanups delete; nil: nothing does.
	Swept func(kind string, n int64)
}

// All returns the jobs by the names of their tasks.
func All(o Options) map[string]tasks.Job {
	repositoryOfTag := func(a tasks.TagArgs) string { return a.RepositoryID }
	repositoryOfRemoval := func(a tasks.RemoveArgs) string { return a.RepositoryID }
	repositoryOfSignatures := func(a tasks.RemoveSignaturesArgs) string { return a.RepositoryID }
	migrated := func(a tasks.ObjectArgs) string { return a.ID }
	repositoryOfVersion := func(a tasks.VersionArgs) string { return a.RepositoryID }
	if o.Access == nil && o.Store != nil {
		o.Access = o.Store.Accounts.NewDecider(nil)
	}
	return map[string]tasks.Job{
		tasks.Sign:               permitted(signer{o}.run, o.maySign),
		tasks.SignMissing:        {Run: with(o.signMissing)}, // dispatched by the server only
		tasks.Sync:               permitted(syncer{o}.run, o.maySync),
		tasks.Tag:                o.signingFirst(permitted(o.tag, may(o, access.Modify, repositoryOfTag))),
		tasks.Untag:              permitted(o.untag, may(o, access.Modify, repositoryOfTag)),
		tasks.AddContent:         o.signingFirst(permitted(o.addContent, o.mayAdd)),
		tasks.RemoveContent:      o.signingFirst(permitted(o.removeContent, may(o, access.Modify, repositoryOfRemoval))),
		tasks.RemoveSignatures:   permitted(o.removeSignatures, may(o, access.Modify, repositoryOfSignatures)),
		tasks.Repair:             permitted(o.repair, may(o, access.Modify, repositoryOfVersion)),
		tasks.RepairAll:          permitted(o.repairAll, administrator[tasks.RepairAllArgs](o)),
		tasks.ReclaimSpace:       permitted(o.reclaim, administrator[tasks.ReclaimArgs](o)),
		tasks.Restore:            o.signingFirst(permitted(o.restore, may(o, access.Modify, repositoryOfVersion))),
		tasks.DeleteVersion:      o.signingFirst(permitted(o.deleteVersion, may(o, access.RemoveVersions, repositoryOfVersion))),
		tasks.Create:             o.signingFirst(permitted(o.create, o.mayCreate)),
		tasks.Edit:               o.signingFirst(permitted(o.edit, o.mayEdit)),
		tasks.Delete:             permitted(o.delete, o.mayDelete),
		tasks.DeleteDistribution: permitted(o.delete, o.mayDelete),
		tasks.Adopt:              permitted(o.adopt, administrator[tasks.AdoptArgs](o)),
		tasks.Compare:            permitted(o.compare, administrator[tasks.CompareArgs](o)),
		tasks.Migrate:            permitted(o.migrate, may(o, access.Change, migrated)),
		tasks.CleanOrphans:       permitted(o.cleanOrphans, administrator[tasks.OrphanArgs](o)),
		tasks.Purge:              totalled(permitted(o.purge, administrator[tasks.PurgeArgs](o))),
	}
}

// with returns a job's Run that decodes the task's arguments for a function.
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
	creator := &access.Caller{Account: r.User()}
	if args.PullThrough != nil {
		args.PullThrough.Apply(&d)
		_, err := o.Store.Catalog.CreatePullThrough(ctx, r.Claim, d, creator.Owner())
		return err
	}
	args.Distribution.Apply(&d)
	_, err := o.Store.Catalog.CreateDistribution(ctx, r.Claim, d, creator.Owner())
	return err
}

func (o Options) edit(ctx context.Context, r *tasks.Run, args tasks.EditArgs) (err error) {
	owner := (&access.Caller{Account: r.User()}).Owner()
	switch {
	case args.Collection == pulp.PullThroughRemoteCollection && args.Remote != nil:
		_, err = o.Store.Catalog.EditPullThroughRemote(ctx, r.Claim, args.ID, args.Remote.Apply)
	case args.Collection == pulp.PullThroughCollection && args.Distribution != nil:
		_, err = o.Store.Catalog.EditPullThrough(ctx, r.Claim, args.ID, owner, args.Distribution.Apply)
	case args.Remote != nil:
		_, err = o.Store.Catalog.EditRemote(ctx, r.Claim, args.ID, args.Remote.Apply)
	case args.Distribution != nil:
		_, err = o.Store.Catalog.EditDistribution(ctx, r.Claim, args.ID, owner, args.Distribution.Apply)
	case args.Repository != nil:
		_, err = o.Store.Catalog.EditRepository(ctx, r.Claim, repositoryType(args.Collection), args.ID, args.Repository.Apply)
	default:
		err = fmt.Errorf("task %s edits nothing", r.Task.ID)
	}
	return err
}

// repositoryType returns the type of the repositories of a collection.
func repositoryType(collection string) pulp.RepositoryType {
	if collection == pulp.PushCollection {
		return pulp.ContainerPush
	}
	return pulp.Container
}

func (o Options) delete(ctx context.Context, r *tasks.Run, args tasks.ObjectArgs) error {
	switch args.Collection {
	case pulp.DistributionCollection:
		return o.Store.Catalog.DeleteDistribution(ctx, r.Claim, args.ID)
	case pulp.RemoteCollection:
		return o.Store.Catalog.DeleteRemote(ctx, r.Claim, args.ID)
	case pulp.PullThroughCollection:
		return o.Store.Catalog.DeletePullThrough(ctx, r.Claim, args.ID)
	case pulp.PullThroughRemoteCollection:
		return o.Store.Catalog.DeletePullThroughRemote(ctx, r.Claim, args.ID)
	case pulp.NamespaceCollection:
		return o.Store.Catalog.DeleteNamespace(ctx, r.Claim, args.ID)
	case pulp.ContainerCollection, pulp.PushCollection:
		return o.Store.Catalog.DeleteRepository(ctx, r.Claim, repositoryType(args.Collection), args.ID)
	}
	return fmt.Errorf("task %s deletes nothing: collection %q", r.Task.ID, args.Collection)
}

func (o Options) migrate(ctx context.Context, r *tasks.Run, args tasks.ObjectArgs) error {
	return o.Store.Catalog.MigrateRepository(ctx, r.Claim, args.ID)
}

// purgeBatch is the number of rows that one transaction of housekeeping deletes at most.
const purgeBatch = 500

func (o Options) purge(ctx context.Context, r *tasks.Run, args tasks.PurgeArgs) error {
	report := r.Report("purge.tasks.key.core.Task", "Purged task-objects of type core.Task", -1)
	for {
		n, err := o.Store.Tasks.PurgeTasks(ctx, time.UnixMicro(args.FinishedBefore), args.States, purgeBatch)
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
