// Package signonpush runs changes of repositories that sign on push: it makes the missing signatures before a change
// becomes visible.
//
// The store rejects such a change with content.MissingSignatures, which lists the missing signatures. Runner.Run
// makes them outside any transaction, keeps them as pending content and runs the change again. A process without the
// service's key delegates signing to another process.
package signonpush

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/signservice"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/sqldb"
)

const (
	maxAttempts = 8  // runs of one change
	keepBatch   = 64 // signatures per transaction
)

// ErrTimeout is the cause of contexts that end after Runner.Timeout.
var ErrTimeout = errors.New("signing took too long")

// Runner runs changes that must be signed before they are visible. It is safe for concurrent use.
type Runner struct {
	Store  *store.Store
	Log    *slog.Logger
	Signer *signservice.Signer
	// SignElsewhere makes the missing signatures in another process and returns when they are kept, or when the context
	// ends. Run calls it when this process cannot use the service.
	SignElsewhere func(context.Context, signservice.Caller, *content.MissingSignatures) error
	// SignLater arranges that the repository is signed after the change. Run calls it only with AcceptUnsigned.
	SignLater func(context.Context, signservice.Caller, *content.MissingSignatures) error
	// Timeout limits how long a push waits for its signatures.
	Timeout time.Duration
	// AcceptUnsigned makes a change visible although signing failed. It is signed later.
	AcceptUnsigned bool
}

// Run calls change, which must use the context that it is passed. While change fails with content.MissingSignatures, Run
// makes the missing signatures and calls it again, up to maxAttempts times.
//
// Outside tasks, and when another process has the key, signing is limited by Timeout. When signing fails, Run returns an
// Unavailable error, or with AcceptUnsigned makes the change visible unsigned. The error is an outage of
// fault.SigningKey when a retry may succeed: the key's device did not answer, or no process with the key signed in time.
// When change fails because its tag has moved (content.TagMoved), Run deletes the signatures that it made for it.
func (r *Runner) Run(ctx context.Context, caller signservice.Caller, change func(context.Context) error) error {
	var signed []*content.MissingSignatures
	for range maxAttempts {
		err := change(ctx)
		missing, ok := errors.AsType[*content.MissingSignatures](err)
		if !ok {
			if _, moved := errors.AsType[*content.TagMoved](err); moved {
				r.deleteSignatures(ctx, signed)
			}
			return err
		}
		signed = append(signed, missing)
		err = r.sign(ctx, caller, missing)
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case r.AcceptUnsigned:
			r.Log.ErrorContext(ctx, "signing on push failed; the change is accepted unsigned",
				slog.String("service", missing.Service.Name), slog.Any("err", err))
			return r.runUnsigned(ctx, caller, missing, change)
		default:
			return notSigned(missing.Service, err)
		}
	}
	return fault.New(fault.Unavailable, "The repository changed each time its tags were signed. Try again.")
}

// notSigned returns the error for a change without the required signatures.
func notSigned(service pulp.SigningService, err error) error {
	const format = "Nothing is shown before it is signed, and the signing service %s did not sign: %s"
	if fault.Is(err, fault.Unavailable) && !sqldb.IsUnavailable(err) || errors.Is(err, ErrTimeout) {
		return fault.NewOutage(fault.SigningKey, err, format, service.Name, publicCause(err))
	}
	return fault.Wrap(fault.Unavailable, err, format, service.Name, publicCause(err))
}

// deleteSignatures deletes the pending signatures of a refused change. Failures are logged only: a pending signature is
// in no version.
func (r *Runner) deleteSignatures(ctx context.Context, signed []*content.MissingSignatures) {
	for _, u := range signed {
		if err := r.Store.Signatures.DropPending(context.WithoutCancel(ctx), u); err != nil {
			r.Log.WarnContext(ctx, "pending signatures of a refused push not deleted",
				slog.String("repository", u.RepositoryID), slog.Any("err", err))
		}
	}
}

// sign makes the missing signatures in this process or another one. A task with the key here has no time limit.
func (r *Runner) sign(ctx context.Context, caller signservice.Caller, missing *content.MissingSignatures) error {
	here := r.Signer.Usable(missing.Service)
	if caller.Task == "" || !here { // a task that waits for another process occupies a worker that it may need
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, r.Timeout, ErrTimeout)
		defer cancel()
	}
	if !here {
		return r.SignElsewhere(ctx, caller, missing)
	}
	return r.SignMissing(ctx, caller, missing.RepositoryID, missing.Service, missing.Missing)
}

// runUnsigned makes a change visible without signatures and requests them.
func (r *Runner) runUnsigned(
	ctx context.Context, caller signservice.Caller, missing *content.MissingSignatures, change func(context.Context) error,
) error {
	ctx = context.WithoutCancel(ctx)
	if err := change(content.AllowUnsigned(ctx)); err != nil {
		return err
	}
	repository := slog.String("repository", missing.RepositoryID)
	if err := r.SignLater(ctx, caller, missing); err != nil {
		r.Log.ErrorContext(ctx, "no task signs a change that was accepted unsigned; sign the repository", repository, slog.Any("err", err))
		return nil
	}
	r.Log.WarnContext(ctx, "a change was accepted unsigned; a task signs it", repository, slog.String("service", missing.Service.Name))
	return nil
}

// SignMissing makes signatures with a service of this process and keeps them as pending content of the repository, until
// a change adds them to a version.
func (r *Runner) SignMissing(
	ctx context.Context, caller signservice.Caller, repositoryID string, service pulp.SigningService, missing []content.MissingSignature,
) error {
	session, err := r.Signer.Open(service, caller)
	if err != nil {
		return err
	}
	for batch := range slices.Chunk(missing, keepBatch) {
		made := make([]pulp.Signature, len(batch))
		group, working := errgroup.WithContext(ctx)
		group.SetLimit(session.Concurrency())
		for i, wanted := range batch {
			group.Go(func() error {
				m, err := r.Store.Serving.ManifestByDigest(working, wanted.Digest)
				if err == nil {
					made[i], err = session.Sign(working, m.ID, m.Digest, wanted.Reference)
				}
				return err
			})
		}
		if err := group.Wait(); err != nil {
			return err
		}
		if err := r.Store.Signatures.KeepPending(ctx, repositoryID, made); err != nil {
			return err
		}
	}
	return nil
}

// publicCause returns the part of an error that clients may see.
func publicCause(err error) string {
	if msg, ok := fault.Message(err); ok {
		return msg
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrTimeout) {
		return "it took too long."
	}
	return "the server's log says why."
}
