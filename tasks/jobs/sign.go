package jobs

import (
	"context"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/notary"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/tasks"
)

// signer runs sign tasks (contract 5.4): it makes the signatures outside any lock, stages each as soon as it is made, and at
// the end adds them all to whatever version is the latest then.
type signer struct{ Options }

func (s signer) run(ctx context.Context, r *tasks.Run) error {
	var args tasks.SignArgs
	if err := r.Decode(&args); err != nil {
		return err
	}
	service, err := s.Store.SigningService(ctx, args.ServiceID)
	if fault.Is(err, fault.NotFound) {
		return fault.New(fault.NotFound, "The signing service was removed before the task ran.")
	} else if err != nil {
		return err
	}
	checked, err := s.Notary.Checked(service)
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
	why := s.reason(ctx, r)
	report := r.Report("signing.manifests", "Signing manifests", len(targets))
	group, working := errgroup.WithContext(ctx)
	group.SetLimit(max(1, s.Parallel))
	for _, t := range targets {
		if working.Err() != nil {
			break
		}
		group.Go(func() error {
			if err := s.signOne(working, r, why, checked, args.BasePath, t); err != nil {
				return err
			}
			report.Add(1)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if err := report.Complete(ctx); err != nil {
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

func (s signer) signOne(ctx context.Context, r *tasks.Run, why notary.Reason, checked *signing.Checked, basePath string, t store.SignTarget) error {
	m, err := s.Store.Manifest(ctx, t.ManifestID)
	if err != nil {
		return err
	}
	made, err := s.Notary.Sign(ctx, why, checked, m, s.reference(basePath, t.Tag))
	if err != nil {
		return err
	}
	return s.Store.StageSignature(ctx, r.Claim, made)
}

// reason says for whom a task uses a key.
func (o Options) reason(ctx context.Context, r *tasks.Run) notary.Reason {
	why := notary.Reason{Task: r.Task.ID}
	if r.Task.CreatedBy != 0 {
		if u, err := o.Store.User(ctx, r.Task.CreatedBy); err == nil { // else it was removed
			why.Who = u.Username
		}
	}
	return why
}

// seal signs what a change in another process waits for.
func (o Options) seal(ctx context.Context, r *tasks.Run, args tasks.SealArgs) error {
	service, err := o.Store.SigningService(ctx, args.ServiceID)
	if err != nil {
		return err
	}
	return o.Notary.SignMissing(ctx, notary.Reason{Who: args.Who, Task: r.Task.ID}, args.RepositoryID, service, args.Missing, nil)
}

// sealed is a job that runs again when what it would show was not signed, and is now.
func (o Options) sealed(job tasks.Job) tasks.Job {
	return func(ctx context.Context, r *tasks.Run) error {
		return o.Notary.Seal(ctx, o.reason(ctx, r), func(ctx context.Context) error { return job(ctx, r) })
	}
}
