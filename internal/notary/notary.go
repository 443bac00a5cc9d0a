// Package notary has manifests signed: for tasks that sign, and for changes that must be signed before they are seen (store.Unsigned).
//
// It knows services and references; how a key signs is in the packages below signing. Each use of a key leaves an audit line.
package notary

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/telemetry"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/tasks"
)

// Notary makes signatures. It is safe for concurrent use.
type Notary struct {
	Store *store.Store
	Log   *slog.Logger
	// SignerFor returns the maker of a service's signatures.
	SignerFor func(pulp.SigningService) (signing.Signer, error)
	// Usable says whether this process can sign with a service.
	Usable func(pulp.SigningService) bool
	// Dispatch makes a task, for a service that only others can use.
	Dispatch func(context.Context, tasks.Origin, tasks.Spec) (store.Task, error)
	// Cancel cancels one that nobody waits for any more.
	Cancel func(context.Context, string) (store.Task, error)
	// Parallel is how many signatures one caller has made at a time.
	Parallel int
	// Timeout is how long a push waits for its signatures.
	Timeout time.Duration
	// AcceptUnsigned lets a change through that could not be signed, and has it signed by a task.
	AcceptUnsigned bool
}

// Reason says for whom a key is used.
type Reason struct {
	Who  string // a user's name; empty: nobody's
	Task string // a task's id; empty: outside any
}

// Checked returns a service's signer, of whose signatures Parallel are made at a time, behind the check that nothing it makes escapes. Twice as many callers keep it
// busy: what one has made is verified while the next is made.
func (n *Notary) Checked(service pulp.SigningService) (*signing.Checked, error) {
	key, err := signing.ParsePublicKey(service.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("public key of signing service %s: %w", service.Name, err)
	}
	maker, err := n.SignerFor(service)
	if err != nil {
		return nil, err
	}
	return signing.NewChecked(signing.NewSlots(n.Parallel).Limited(maker), key), nil
}

// Sign signs the manifest with an id and a digest for one docker reference and returns the signature's row, which is not stored.
func (n *Notary) Sign(ctx context.Context, why Reason, checked *signing.Checked, manifestID string, manifest digest.Digest, reference string) (pulp.Signature, error) {
	made, err := checked.Sign(ctx, signing.Request{
		Claim:         signing.Claim{ManifestDigest: manifest, DockerReference: reference},
		Manifest:      func(ctx context.Context) ([]byte, error) { return n.Store.Payload(ctx, manifestID) },
		CorrelationID: telemetry.Correlation(ctx),
	})
	line := []slog.Attr{
		slog.String("who", why.Who), slog.String("action", "sign"), slog.String("key", checked.Fingerprint()),
		slog.String("digest", string(manifest)), slog.String("reference", reference), slog.String("task", why.Task),
	}
	if err != nil {
		n.Log.LogAttrs(ctx, slog.LevelError, "audit", append(line, slog.String("result", "failed"), slog.Any("err", err))...)
		return pulp.Signature{}, err
	}
	n.Log.LogAttrs(ctx, slog.LevelInfo, "audit", append(line, slog.String("result", "done"), slog.String("signature", string(signing.Digest(made.Raw))))...)
	return row(manifestID, made), nil
}

// row is the row of a signature that was verified with its maker's key.
func row(manifestID string, made signing.Made) pulp.Signature {
	verified := made.Verified
	claim := verified.Claim()
	fingerprint := verified.IssuerFingerprint()
	return pulp.Signature{
		Digest: signing.Digest(made.Raw), Name: signing.Name(claim.ManifestDigest, made.Raw), ManifestID: manifestID, Content: made.Raw,
		KeyID: verified.KeyID(), Fingerprint: &fingerprint, VerifiedBy: verified.Fingerprint(),
		Reference: claim.DockerReference, Creator: claim.Creator, SignedAt: verified.CreatedAt().Unix(),
	}
}

const (
	sealTries = 8                     // times that others may change what a change needs before it is given up
	sealBatch = 64                    // signatures that are kept at a time
	sealPoll  = 20 * time.Millisecond // how often a task that signs is looked at
	sealEnd   = 10 * time.Second      // how long it may take to end one that nobody waits for
)

var errTooLong = errors.New("signing took too long")

// ErrKeyAway says that a change was not signed because its key is away for a while, or nobody with it has signed in time. Nothing was changed.
var ErrKeyAway = errors.New("the key is away")

// Seal runs a change; while it fails because tags would be seen unsigned, it has them signed and runs it again. The change
// must use the context that it is given. A change outside any task, or whose key only others have, waits for its signatures for Timeout. Unavailable when what must be signed cannot be.
// Where the tag has moved meanwhile from what the change demands, its signatures are forgotten.
func (n *Notary) Seal(ctx context.Context, why Reason, change func(context.Context) error) error {
	var signed []*store.Unsigned
	for range sealTries {
		err := change(ctx)
		missing, ok := errors.AsType[*store.Unsigned](err)
		if !ok {
			if _, moved := errors.AsType[*store.TagMoved](err); moved {
				n.forget(ctx, signed)
			}
			return err
		}
		signed = append(signed, missing)
		err = n.signInTime(ctx, why, missing)
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case n.AcceptUnsigned:
			n.Log.ErrorContext(ctx, "not signed before it is shown", slog.String("service", missing.Service.Name), slog.Any("err", err))
			return n.later(ctx, why, missing, change)
		default:
			if fault.Is(err, fault.Unavailable) && !store.Away(err) || errors.Is(err, errTooLong) {
				err = fmt.Errorf("%w: %w", ErrKeyAway, err)
			}
			return fault.Wrap(fault.Unavailable, err, "Nothing is shown before it is signed, and the signing service %s did not sign: %s", missing.Service.Name, sentence(err))
		}
	}
	return fault.New(fault.Unavailable, "What must be signed changes faster than it is signed.")
}

// forget drops what was signed for a change that was refused after all. What cannot be dropped now shows nothing either: no version has it.
func (n *Notary) forget(ctx context.Context, signed []*store.Unsigned) {
	for _, u := range signed {
		if err := n.Store.DropSignatures(context.WithoutCancel(ctx), u); err != nil {
			n.Log.WarnContext(ctx, "signatures for a change that was refused stay behind", slog.String("repository", u.RepositoryID), slog.Any("err", err))
		}
	}
}

func (n *Notary) signInTime(ctx context.Context, why Reason, missing *store.Unsigned) error {
	if why.Task == "" || !n.Usable(missing.Service) { // a task that waits for others' work holds a place that they may need
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, n.Timeout, errTooLong)
		defer cancel()
	}
	return n.sign(ctx, why, missing)
}

// later makes a change that could not be signed, and has it signed by tasks, one for each path.
func (n *Notary) later(ctx context.Context, why Reason, missing *store.Unsigned, change func(context.Context) error) error {
	ctx = context.WithoutCancel(ctx)
	if err := change(store.WithoutSeal(ctx)); err != nil {
		return err
	}
	served, err := n.Store.RepositoryDistributions(ctx, missing.RepositoryID)
	for _, d := range served {
		if err != nil {
			break
		}
		_, err = n.Dispatch(ctx, tasks.BySystem(), tasks.Spec{
			Name: tasks.Sign, Args: tasks.SignArgs{RepositoryID: missing.RepositoryID, ServiceID: missing.Service.ID, BasePath: d.BasePath, Who: why.Who},
			Resources: []store.Resource{{Href: pulp.RepositoryHref(d.Repository, missing.RepositoryID), Exclusive: true}}, ServiceID: missing.Service.ID, Namespace: missing.Namespace,
		})
	}
	if err != nil {
		n.Log.ErrorContext(ctx, "what was accepted unsigned is not signed by a task either", slog.String("repository", missing.RepositoryID), slog.Any("err", err))
	}
	n.Log.WarnContext(ctx, "a change was accepted unsigned; a task signs it", slog.String("repository", missing.RepositoryID), slog.String("service", missing.Service.Name))
	return nil
}

// sign has what is missing signed: here, or by a process that can.
func (n *Notary) sign(ctx context.Context, why Reason, missing *store.Unsigned) error {
	if n.Usable(missing.Service) {
		return n.SignMissing(ctx, why, missing.RepositoryID, missing.Service, missing.Missing, nil)
	}
	t, err := n.Dispatch(ctx, tasks.BySystem(), tasks.Spec{
		Name: tasks.Seal, Args: tasks.SealArgs{RepositoryID: missing.RepositoryID, ServiceID: missing.Service.ID, Missing: missing.Missing, Who: why.Who},
		ServiceID: missing.Service.ID, Namespace: missing.Namespace,
	})
	if err != nil {
		return err
	}
	defer func() {
		done, cancel := context.WithTimeout(context.WithoutCancel(ctx), sealEnd)
		defer cancel()
		if _, err := n.Cancel(done, t.ID); err == nil || fault.Is(err, fault.Conflict) {
			_ = n.Store.DeleteTask(done, t.ID) // one that is still being canceled goes with the old ones
		}
	}()
	tick := time.NewTicker(sealPoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return fault.Wrap(fault.Unavailable, context.Cause(ctx), "no process that can use its key has signed in time.")
		case <-tick.C:
		}
		now, err := n.Store.Task(ctx, t.ID)
		switch {
		case err != nil && ctx.Err() == nil:
			return err
		case err != nil || !now.State.Final():
		case now.State == store.TaskCompleted:
			return nil
		case now.Error != nil:
			return fault.New(fault.Unavailable, "%s", now.Error.Description)
		default:
			return fault.New(fault.Unavailable, "the task that signs was %s.", now.State)
		}
	}
}

// SignMissing signs what is missing with a service of this process, and keeps it until the change asks for it. progress, unless nil, is told how many more are kept.
func (n *Notary) SignMissing(ctx context.Context, why Reason, repositoryID string, service pulp.SigningService, missing []store.Unsealed, progress func(int)) error {
	checked, err := n.Checked(service)
	if err != nil {
		return err
	}
	for some := range slices.Chunk(missing, sealBatch) {
		made := make([]pulp.Signature, len(some))
		group, working := errgroup.WithContext(ctx)
		group.SetLimit(2 * max(1, n.Parallel))
		for i, w := range some {
			group.Go(func() error {
				m, err := n.Store.ManifestByDigest(working, w.Digest)
				if err == nil {
					made[i], err = n.Sign(working, why, checked, m.ID, m.Digest, w.Reference)
				}
				return err
			})
		}
		if err := group.Wait(); err != nil {
			return err
		}
		if err := n.Store.KeepSignatures(ctx, repositoryID, made); err != nil {
			return err
		}
		if progress != nil {
			progress(len(some))
		}
	}
	return nil
}

// sentence is what may be shown of an error.
func sentence(err error) string {
	if e, ok := errors.AsType[*fault.Error](err); ok && e.Kind != fault.Internal {
		return e.Msg
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errTooLong) {
		return "it took too long."
	}
	return "the server's log says why."
}
