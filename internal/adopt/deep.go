package adopt

import (
	"context"
	"errors"
	"log/slog"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/upstreamstate"
	"github.com/countersign/countersign/storage"
)

// compareContent checks that the upstream has all manifests and blobs of all versions of the repository. A blob
// that was copied from another repository may only exist under that repository's name.
func (r *run) compareContent(ctx context.Context) error {
	manifests, err := r.Store.Upstream.HeldManifests(ctx, r.repo.ID)
	if err != nil {
		return err
	}
	blobs, err := r.Store.Upstream.HeldBlobs(ctx, r.repo.ID)
	if err != nil {
		return err
	}
	group, working := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for _, b := range blobs {
		group.Go(func() error {
			err := r.stat(working, r.repo.UpstreamName(), b.Digest)
			if errors.Is(err, storage.ErrNotFound) && b.Location != r.repo.UpstreamName() {
				err = r.stat(working, b.Location, b.Digest)
			}
			if errors.Is(err, storage.ErrNotFound) {
				r.addDrift("blob", string(b.Digest), b.Digest, "", "The upstream has lost it.")
				return nil
			}
			return err
		})
	}
	for _, d := range manifests {
		group.Go(func() error {
			err := r.retryOnce(working, func() error {
				_, err := r.Upstream.Resolve(working, r.repo.UpstreamName(), string(d))
				return err
			})
			if errors.Is(err, storage.ErrNotFound) {
				r.addDrift("manifest", string(d), d, "", r.restore(working, d))
				return nil
			}
			return err
		})
	}
	return group.Wait()
}

// stat returns ErrNotFound if the upstream does not have a blob under the name.
func (r *run) stat(ctx context.Context, within string, d digest.Digest) error {
	return r.retryOnce(ctx, func() error { _, err := r.Blobs.Storage.Stat(ctx, within, d); return err })
}

// restore puts a manifest back that the upstream does not have, and returns the note for the recorded
// difference.
func (r *run) restore(ctx context.Context, d digest.Digest) string {
	if !r.Pin {
		return "The upstream does not have it under this name; pulls by it through here go on as long as its blobs are there."
	}
	if err := r.Put(ctx, r.repo, pulp.PinTag(d), d); err != nil {
		r.Log.WarnContext(ctx, "cannot restore a manifest upstream",
			slog.String("repository", r.repo.Name), slog.String("digest", string(d)), slog.Any("err", err))
		return "The upstream does not have it under this name, and does not take it."
	}
	pin := upstreamstate.Pin{RepositoryID: r.repo.ID, Repository: r.repo.Name, Digest: d}
	if err := r.Store.Upstream.PinManifest(ctx, pin); err != nil {
		return "The upstream did not have it under this name; it has been put there for now."
	}
	return "The upstream did not have it under this name; it has been put there."
}
