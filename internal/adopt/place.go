package adopt

import (
	"context"
	"errors"
	"log/slog"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/storage"
)

// Put has a tag stand upstream for a manifest of a repository. What the manifest names is brought there first.
func (a *Adopter) Put(ctx context.Context, repo pulp.Repository, tag string, d digest.Digest) error {
	return a.put(ctx, repo, tag, d, map[digest.Digest]bool{d: true})
}

// put is Put under any reference; seen are the manifests that somebody sees to already.
func (a *Adopter) put(ctx context.Context, repo pulp.Repository, reference string, d digest.Digest, seen map[digest.Digest]bool) error {
	m, held, err := a.Store.HeldManifest(ctx, repo.ID, d)
	if err != nil || !held { // it has gone since; its tag has too
		return err
	}
	if err := a.place(ctx, repo, d, seen); err != nil {
		return err
	}
	return a.Upstream.PutManifest(ctx, repo.UpstreamName(), reference, m.MediaType, m.Payload)
}

// place has the upstream hold, under the repository's name, what a manifest names. What pushes bring is there already; what was copied from other repositories lies
// there under their names.
func (a *Adopter) place(ctx context.Context, repo pulp.Repository, d digest.Digest, seen map[digest.Digest]bool) error {
	within := repo.UpstreamName()
	parts, err := a.Store.Elsewhere(ctx, repo.ID, d, within)
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

// keepBatch is how many manifests are looked for at a time that hidden tags shall keep.
const keepBatch = 100

// KeepAlive has hidden tags keep alive upstream what versions hold and no tag there, of all repositories or of the one with this id. What the upstream refuses is given up:
// nothing else waits for it.
func (a *Adopter) KeepAlive(ctx context.Context, repositoryID string) error {
	if !a.Keep {
		return nil
	}
	for ctx.Err() == nil {
		unkept, err := a.Store.Unkept(ctx, repositoryID, keepBatch)
		if err != nil || len(unkept) == 0 {
			return err
		}
		silent := false
		for _, k := range unkept {
			repo := pulp.Repository{ID: k.RepositoryID, Name: k.Repository}
			err := a.Put(ctx, repo, pulp.PinTag(k.Digest), k.Digest)
			if err != nil && a.gone(ctx, err) {
				return err
			} else if err != nil {
				a.Log.WarnContext(ctx, "the upstream does not keep what a version holds", slog.String("repository", k.Repository), slog.String("digest", string(k.Digest)), slog.Any("err", err))
			}
			if fault.IsOutage(err, fault.Upstream) || fault.Is(err, fault.Internal) { // the next look tries it again
				silent = true
				continue
			}
			if err := a.Store.KeptManifest(ctx, k); err != nil {
				return err
			}
		}
		if silent {
			return nil
		}
	}
	return ctx.Err()
}

// DropKept removes the hidden tags of manifests that no version holds any more. What the upstream does not remove stays.
func (a *Adopter) DropKept(ctx context.Context) error {
	for a.Keep && ctx.Err() == nil {
		needless, err := a.Store.NeedlesslyKept(ctx, keepBatch)
		if err != nil || len(needless) == 0 {
			return err
		}
		for _, k := range needless {
			err := a.Upstream.DeleteManifest(ctx, pulp.UpstreamName(k.Repository, k.RepositoryID), pulp.PinTag(k.Digest))
			if err != nil && a.gone(ctx, err) {
				return err
			} else if err != nil {
				a.Log.WarnContext(ctx, "a hidden tag that nobody needs stays upstream", slog.String("repository", k.Repository), slog.String("digest", string(k.Digest)), slog.Any("err", err))
			}
			if err := a.Store.ForgetKept(ctx, k); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

// insist runs f again where it failed for want of an answer of an upstream that does answer: what has passed is no reason to give anything up.
func (a *Adopter) insist(ctx context.Context, f func() error) error {
	err := f()
	if fault.IsOutage(err, fault.Upstream) && !a.Away(ctx, err) {
		err = f()
	}
	return err
}

// Away says whether an error ends more than the one thing that it came of: the upstream does not answer to anything, or the error is not the upstream's.
func (a *Adopter) Away(ctx context.Context, err error) bool {
	if fault.IsOutage(err, fault.Upstream) || errors.Is(err, storage.ErrUnsupported) || errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrDigest) {
		return a.gone(ctx, err)
	}
	return a.gone(ctx, err) || fault.Is(err, fault.Internal)
}

// gone says whether nothing can be done now: the upstream or the database does not answer to anything, or nobody waits any more.
func (a *Adopter) gone(ctx context.Context, err error) bool {
	return ctx.Err() != nil || store.Away(err) || fault.IsOutage(err, fault.Upstream) && a.Blobs.Storage.Ping(ctx) != nil
}
