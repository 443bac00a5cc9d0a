package jobs

import (
	"context"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/signonpush"
	"github.com/countersign/countersign/internal/signservice"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/tasks"
)

// signer runs sign tasks (contract 5.4): it makes the signatures outside any lock, stages each as soon as it is made, and at
// the end adds them all to whatever version is the latest then.
type signer struct{ Options }

func (s signer) run(ctx context.Context, r *tasks.Run, args tasks.SignArgs) error {
	service, err := s.Store.SigningService(ctx, args.ServiceID)
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
		s.Log.WarnContext(ctx, "signatures claim the host localhost, which means nothing on other machines; set public_url to what clients type")
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
	_, err = s.Store.CommitStaged(ctx, r.Claim, args.RepositoryID)
	return err
}

// missing returns what the task is to sign and has not: neither in the repository, unless it is forced (D10), nor by an earlier attempt.
func (s signer) missing(ctx context.Context, r *tasks.Run, args tasks.SignArgs, service pulp.SigningService) ([]store.SignTarget, error) {
	targets, err := s.Store.SignTargets(ctx, args.RepositoryID, args.Tags, args.SignLists)
	if err != nil {
		return nil, err
	}
	done, err := s.Store.Staged(ctx, r.Task.ID, service.Fingerprint)
	if err != nil {
		return nil, err
	}
	if !args.Force {
		before, err := s.Store.SignedBy(ctx, args.RepositoryID, service.Fingerprint)
		if err != nil {
			return nil, err
		}
		done = append(done, before...)
	}
	signed := make(map[store.SignedKey]bool, len(done))
	for _, k := range done {
		signed[k] = true
	}
	missing := targets[:0]
	for _, t := range targets {
		if !signed[store.SignedKey{ManifestID: t.ManifestID, Reference: s.reference(args.BasePath, t.Tag)}] {
			missing = append(missing, t)
		}
	}
	return missing, nil
}

// reference is the identity that a signature claims: D5, contract 5.3.
func (s signer) reference(basePath, tag string) string {
	return signing.Reference(s.Host, basePath, tag)
}

// signAll signs the targets and stages what is made, together as much as there is: one write takes many signatures.
func (s signer) signAll(ctx context.Context, r *tasks.Run, session *signservice.Session, args tasks.SignArgs, targets []store.SignTarget, report *tasks.Report) error {
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
				if fault.Is(err, fault.Unavailable) && !store.Away(err) {
					return tasks.RetryLater(err) // the key is away: its tasks wait, and hold nobody up
				} else if err != nil {
					return err
				}
				made <- g // it is always taken
				return nil
			})
		}
		err := group.Wait()
		if cause := context.Cause(ctx); cause != nil { // what broke off says less than why
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
			// What is made is kept even when the rest fails: another attempt need not make it again.
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

// gather takes what is made until there is a batch of it, or for a short while; nothing when all has been taken.
func gather(made <-chan pulp.Signature) []pulp.Signature {
	first, more := <-made
	if !more {
		return nil
	}
	batch, patience := []pulp.Signature{first}, time.After(stageWait)
	for len(batch) < stageBatch {
		select {
		case g, more := <-made:
			if !more {
				return batch
			}
			batch = append(batch, g)
		case <-patience:
			return batch
		}
	}
	return batch
}

func (s signer) stage(ctx context.Context, r *tasks.Run, made []pulp.Signature) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stageTime)
	defer cancel()
	return s.Store.StageSignatures(ctx, r.Claim, made)
}

const (
	stageBatch = 200                    // signatures that one write stages at most
	stageWait  = 100 * time.Millisecond // that the first of them waits for others
	stageTime  = 10 * time.Second       // that it may take
)

// caller returns on whose behalf a task uses a key: its user, or else the one that its arguments name.
func caller(r *tasks.Run, who string) signservice.Caller {
	if name := r.User().Username; name != "" {
		who = name
	}
	return signservice.Caller{User: who, Task: r.Task.ID}
}

// stillAssigned requires, for a task that the server started by itself, that the repository may use the service. maySign requires it for tasks of users.
func (o Options) stillAssigned(ctx context.Context, r *tasks.Run, repositoryID string, service pulp.SigningService) error {
	if r.Task.Origin != store.OriginSystem {
		return nil
	}
	repo, err := o.Store.RepositoryByID(ctx, repositoryID)
	if err != nil {
		return err
	}
	return o.assigned(repo, service)
}

// seal signs what a change in another process waits for.
func (o Options) seal(ctx context.Context, r *tasks.Run, args tasks.SealArgs) error {
	service, err := o.Store.SigningService(ctx, args.ServiceID)
	if err != nil {
		return err
	}
	if err := o.stillAssigned(ctx, r, args.RepositoryID, service); err != nil {
		return err
	}
	return o.SignOnPush.SignMissing(ctx, signservice.Caller{User: args.Who, Task: r.Task.ID}, args.RepositoryID, service, args.Missing)
}

// sealed is a job that runs again when what it would show was not signed, and is now.
func (o Options) sealed(job tasks.Job) tasks.Job {
	work := job.Run
	job.Run = func(ctx context.Context, r *tasks.Run) error {
		return o.seals(ctx, r, func(ctx context.Context) error { return work(ctx, r) })
	}
	return job
}

// seals runs a task's change again when what it would show was not signed, and is now. While the key is away the task waits. Before each run it checks that the
// task's user may still have the change done: signing, or what came before, may have taken long.
func (o Options) seals(ctx context.Context, r *tasks.Run, change func(context.Context) error) error {
	err := o.SignOnPush.Run(ctx, caller(r, ""), func(ctx context.Context) error {
		if err := r.Permit(ctx); err != nil {
			return err
		}
		return change(ctx)
	})
	if signonpush.KeyUnavailable(err) && ctx.Err() == nil {
		return tasks.RetryLater(err)
	}
	return err
}
