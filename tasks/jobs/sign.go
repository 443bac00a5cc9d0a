package jobs

import (
	"context"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/signservice"
	"github.com/countersign/countersign/internal/store/signatures"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/tasks"
)

// signer runs sign tasks (compatibility.md#signing). It signs outside any lock and stages each signature. At
// the end it adds all staged signatures to the version that is then the latest.
type signer struct{ Options }

func (s signer) run(ctx context.Context, r *tasks.Run, args tasks.SignArgs) error {
	service, err := s.Store.Signatures.SigningService(ctx, args.ServiceID)
	if fault.Is(err, fault.NotFound) {
		return fault.New(fault.NotFound, "The signing service was removed before the task ran.")
	} else if err != nil {
		return err
	}
	if err := s.stillAssigned(ctx, r, args.RepositoryID, service); err != nil {
		return err
	}
	session, err := s.Signer.Open(service, caller(r, args.Who))
	if err != nil {
		return err
	}
	targets, err := s.missing(ctx, r, args, service)
	if err != nil {
		return err
	}
	if host, _, _ := strings.Cut(s.Host, ":"); host == "localhost" && len(targets) > 0 {
		s.Log.WarnContext(ctx, "signatures claim the host localhost, which other machines cannot use; set public_url to the name that clients use")
	}
	report := r.Report("signing.manifests", "Signing manifests", len(targets))
	if err := s.signAll(ctx, r, session, args, targets, report); err != nil {
		return err
	}
	if err := report.Complete(ctx); err != nil {
		return err
	}
	if err := r.Permit(ctx); err != nil {
		return err
	}
	_, err = s.Store.Signatures.CommitStaged(ctx, r.Claim, args.RepositoryID)
	return err
}

// missing returns the targets of the task without those that are signed: by an earlier attempt, or in the
// repository unless args.Force is set (compatibility.md#signing-again).
func (s signer) missing(ctx context.Context, r *tasks.Run, args tasks.SignArgs, service pulp.SigningService) ([]signatures.SignTarget, error) {
	targets, err := s.Store.Signatures.SignTargets(ctx, args.RepositoryID, args.Tags, args.SignLists)
	if err != nil {
		return nil, err
	}
	done, err := s.Store.Signatures.Staged(ctx, r.Task.ID, service.Fingerprint)
	if err != nil {
		return nil, err
	}
	if !args.Force {
		before, err := s.Store.Signatures.SignedBy(ctx, args.RepositoryID, service.Fingerprint)
		if err != nil {
			return nil, err
		}
		done = append(done, before...)
	}
	signed := make(map[signatures.SignedKey]bool, len(done))
	for _, k := range done {
		signed[k] = true
	}
	missing := targets[:0]
	for _, t := range targets {
		if !signed[signatures.SignedKey{ManifestID: t.ManifestID, Reference: s.reference(args.BasePath, t.Tag)}] {
			missing = append(missing, t)
		}
	}
	return missing, nil
}

// reference returns the docker reference of a signature (compatibility.md#docker-reference).
func (s signer) reference(basePath, tag string) string {
	return signing.Reference(s.Host, basePath, tag)
}

// signAll signs the targets and stages the signatures in batches.
func (s signer) signAll(ctx context.Context, r *tasks.Run, session *signservice.Session, args tasks.SignArgs, targets []signatures.SignTarget, report *tasks.Report) error {
	made := make(chan pulp.Signature, stageBatch)
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var both errgroup.Group
	both.Go(func() error {
		defer close(made)
		group, working := errgroup.WithContext(ctx)
		group.SetLimit(2 * max(1, s.Parallel))
		for _, t := range targets {
			if working.Err() != nil {
				break
			}
			group.Go(func() error {
				g, err := session.Sign(working, t.ManifestID, t.Digest, s.reference(args.BasePath, t.Tag))
				if fault.Is(err, fault.Unavailable) && !sqldb.IsUnavailable(err) {
					return tasks.RetryLater(err) // the key is unavailable; the task waits without occupying a slot
				} else if err != nil {
					return err
				}
				made <- g // never blocks for long: the second goroutine always receives
				return nil
			})
		}
		err := group.Wait()
		if cause := context.Cause(ctx); cause != nil { // more precise than the error that the end of ctx caused
			return cause
		}
		return err
	})
	both.Go(func() error {
		var failed error
		for {
			batch := gather(made)
			if len(batch) == 0 {
				return failed
			}
			// Signatures are stored even if others fail, so that the next attempt need not create them again.
			err := s.stage(ctx, r, batch)
			if err == nil {
				report.Add(len(batch))
			} else if failed == nil {
				failed = err
				stop(err)
			}
		}
	})
	return both.Wait()
}

// gather receives a batch of signatures: all that arrive within stageWait of the first, at most stageBatch. It
// returns an empty batch when the channel is closed.
func gather(made <-chan pulp.Signature) []pulp.Signature {
	first, more := <-made
	if !more {
		return nil
	}
	batch, timeout := []pulp.Signature{first}, time.After(stageWait)
	for len(batch) < stageBatch {
		select {
		case g, more := <-made:
			if !more {
				return batch
			}
			batch = append(batch, g)
		case <-timeout:
			return batch
		}
	}
	return batch
}

func (s signer) stage(ctx context.Context, r *tasks.Run, made []pulp.Signature) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stageTime)
	defer cancel()
	return s.Store.Signatures.StageSignatures(ctx, r.Claim, made)
}

const (
	stageBatch = 200                    // most signatures in one transaction
	stageWait  = 100 * time.Millisecond // longest wait for further signatures
	stageTime  = 10 * time.Second       // limit for the transaction
)

// caller returns the user on whose behalf a task uses a key: the task's user, or user for tasks of the server.
func caller(r *tasks.Run, user string) signservice.Caller {
	if name := r.User().Username; name != "" {
		user = name
	}
	return signservice.Caller{User: user, Task: r.Task.ID}
}

// stillAssigned requires that the repository may use the service, for tasks of the server. For tasks of users
// maySign requires it.
func (o Options) stillAssigned(ctx context.Context, r *tasks.Run, repositoryID string, service pulp.SigningService) error {
	if r.Task.Origin != taskstore.OriginSystem {
		return nil
	}
	repo, err := o.Store.Catalog.RepositoryByID(ctx, repositoryID)
	if err != nil {
		return err
	}
	return o.assigned(repo, service)
}

// signMissing creates signatures that a change in another process needs.
func (o Options) signMissing(ctx context.Context, r *tasks.Run, args tasks.SignMissingArgs) error {
	service, err := o.Store.Signatures.SigningService(ctx, args.ServiceID)
	if err != nil {
		return err
	}
	if err := o.stillAssigned(ctx, r, args.RepositoryID, service); err != nil {
		return err
	}
	return o.SignOnPush.SignMissing(ctx, signservice.Caller{User: args.Who, Task: r.Task.ID}, args.RepositoryID, service, args.Missing)
}

// signingFirst returns a job whose change is signed before it becomes visible. See runSigned.
func (o Options) signingFirst(job tasks.Job) tasks.Job {
	work := job.Run
	job.Run = func(ctx context.Context, r *tasks.Run) error {
		return o.runSigned(ctx, r, func(ctx context.Context) error { return work(ctx, r) })
	}
	return job
}

// runSigned runs a task's change. If the change would make unsigned tags visible in a repository that signs on
// push, it has them signed and runs the change again. If the key is unavailable the task is retried later. The
// user's permissions are checked before each run, since signing may have taken long.
func (o Options) runSigned(ctx context.Context, r *tasks.Run, change func(context.Context) error) error {
	err := o.SignOnPush.Run(ctx, caller(r, ""), func(ctx context.Context) error {
		if err := r.Permit(ctx); err != nil {
			return err
		}
		return change(ctx)
	})
	if fault.IsOutage(err, fault.SigningKey) && ctx.Err() == nil {
		return tasks.RetryLater(err)
	}
	return err
}
