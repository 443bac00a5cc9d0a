package adopt

import (
	"context"
	"errors"
	"log/slog"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/storage"
)

// Put writes a manifest of a repository to the upstream under a tag, after the content that it references.
func (a *Adopter) Put(ctx context.Context, repo pulp.Repository, tag string, d digest.Digest) error {
	return a.put(ctx, repo, tag, d, map[digest.Digest]bool{d: true})
}

// put is Put for any reference. seen contains manifests that have been or are being written.
func (a *Adopter) put(
	ctx context.Context, repo pulp.Repository, reference string, d digest.Digest, seen map[digest.Digest]bool,
) error {
	m, held, err := a.Store.Upstream.HeldManifest(ctx, repo.ID, d)
	if err != nil || !held { // deleted meanwhile, and so was its tag
		return err
	}
	if err := a.place(ctx, repo, d, seen); err != nil {
		return err
	}
	return a.Upstream.PutManifest(ctx, repo.UpstreamName(), reference, m.MediaType, m.Payload)
}

// place copies everything that a manifest references to the upstream repository. Content that was pushed is
// there already; content copied from other repositories is mounted from their names.
func (a *Adopter) place(ctx context.Context, repo pulp.Repository, d digest.Digest, seen map[digest.Digest]bool) error {
	within := repo.UpstreamName()
	parts, err := a.Store.Upstream.MissingUpstream(ctx, repo.ID, d, within)
	if err != nil {
		return err
	}
	for _, b := range parts.Blobs {
		_, err := a.Blobs.Storage.Stat(ctx, within, b.Digest)
		switch {
		case errors.Is(err, storage.ErrNotFound) && b.Digest == pulp.EmptyLayer:
			_, err = a.Blobs.EmptyLayer(ctx, within)
		case errors.Is(err, storage.ErrNotFound):
			err = a.Blobs.Storage.Mount(ctx, b.Location, within, b.Digest)
		}
		if errors.Is(err, storage.ErrNotFound) {
			err = fault.Wrap(fault.Unavailable, err, "The upstream has lost %s.", b.Digest)
		}
		if err != nil {
			return err
		}
	}
	for _, child := range parts.Children {
		if seen[child] {
			continue
		}
		seen[child] = true
		_, err := a.Upstream.Resolve(ctx, within, string(child))
		if errors.Is(err, storage.ErrNotFound) {
			err = a.put(ctx, repo, string(child), child, seen)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// pinBatch is the number of manifests that one query returns.
const pinBatch = 100

// PinManifests creates hidden tags upstream for manifests that a version contains and no tag there references.
// An empty repositoryID stands for all repositories. A manifest that the upstream rejects is logged and not
// tried again; one about which it does not answer is tried again at the next call.
func (a *Adopter) PinManifests(ctx context.Context, repositoryID string) error {
	if !a.Pin {
		return nil
	}
	for ctx.Err() == nil {
		unpinned, err := a.Store.Upstream.Unpinned(ctx, repositoryID, pinBatch)
		if err != nil || len(unpinned) == 0 {
			return err
		}
		retry := false
		for _, p := range unpinned {
			repo := pulp.Repository{ID: p.RepositoryID, Name: p.Repository}
			err := a.Put(ctx, repo, pulp.PinTag(p.Digest), p.Digest)
			if err != nil && a.isDown(ctx, err) {
				return err
			} else if err != nil {
				a.Log.WarnContext(ctx, "cannot create a hidden tag upstream; its garbage collection may delete the manifest",
					slog.String("repository", p.Repository), slog.String("digest", string(p.Digest)), slog.Any("err", err))
			}
			if fault.IsOutage(err, fault.Upstream) || fault.Is(err, fault.Internal) { // the next call tries it again
				retry = true
				continue
			}
			if err := a.Store.Upstream.PinManifest(ctx, p); err != nil {
				return err
			}
		}
		if retry {
			return nil
		}
	}
	return ctx.Err()
}

// UnpinManifests deletes the hidden tags of manifests that no version contains any more. A tag that the
// upstream does not delete is logged and forgotten.
func (a *Adopter) UnpinManifests(ctx context.Context) error {
	for a.Pin && ctx.Err() == nil {
		stale, err := a.Store.Upstream.StalePins(ctx, pinBatch)
		if err != nil || len(stale) == 0 {
			return err
		}
		for _, p := range stale {
			err := a.Upstream.DeleteManifest(ctx, pulp.UpstreamName(p.Repository, p.RepositoryID), pulp.PinTag(p.Digest))
			if err != nil && a.isDown(ctx, err) {
				return err
			} else if err != nil {
				a.Log.WarnContext(ctx, "cannot delete a hidden tag upstream that is not needed any more",
					slog.String("repository", p.Repository), slog.String("digest", string(p.Digest)), slog.Any("err", err))
			}
			if err := a.Store.Upstream.RemovePin(ctx, p); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

// downError is an error of a request to the upstream after which a ping failed, too. It stays fatal if the
// upstream answers again by the time a caller asks.
type downError struct{ error }

// Unwrap returns the error of the request.
func (e downError) Unwrap() error { return e.error }

// retryOnce calls f, and once more if the upstream did not answer the request although it answers a ping: the
// failure was transient. If the ping fails, too, the result is a downError.
func (a *Adopter) retryOnce(ctx context.Context, f func() error) error {
	err := f()
	switch {
	case !fault.IsOutage(err, fault.Upstream):
		return err
	case a.IsFatal(ctx, err):
		return downError{err}
	}
	return f()
}

// IsFatal reports whether an error concerns more than the object of the failed request: the upstream or the
// database is down, ctx has ended, or the error is internal.
func (a *Adopter) IsFatal(ctx context.Context, err error) bool {
	if fault.IsOutage(err, fault.Upstream) || errors.Is(err, storage.ErrUnsupported) ||
		errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrDigest) {
		return a.isDown(ctx, err)
	}
	return a.isDown(ctx, err) || fault.Is(err, fault.Internal)
}

// isDown reports whether no further request can succeed now: the upstream does not answer a ping, or did not
// after the failed request, the database is down, or ctx has ended.
func (a *Adopter) isDown(ctx context.Context, err error) bool {
	if _, down := errors.AsType[downError](err); down {
		return true
	}
	return ctx.Err() != nil || sqldb.IsUnavailable(err) || fault.IsOutage(err, fault.Upstream) && a.Blobs.Storage.Ping(ctx) != nil
}
