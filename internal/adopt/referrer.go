package adopt

import (
	"cmp"
	"context"
	"errors"
	"log/slog"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/storage"
)

// recordReferrers stores the referrers of a manifest, except those that were removed here. It does nothing if
// the upstream does not list referrers; clients then maintain a list under a tag. A referrer that cannot be
// stored is skipped: the manifest is adopted without it.
func (r *run) recordReferrers(ctx context.Context, d digest.Digest, depth int) error {
	if r.unlisted.Load() || depth >= maxNesting {
		return nil
	}
	r.mu.Lock()
	r.taken[d] = true // ends cycles of referrers
	r.mu.Unlock()
	var found []digest.Digest
	err := r.retryOnce(ctx, func() (err error) { found, err = r.Upstream.Referrers(ctx, r.repo.UpstreamName(), d); return err })
	switch {
	case err == nil:
	case r.isDown(ctx, err):
		return err
	case !fault.IsOutage(err, fault.Upstream):
		r.unlisted.Store(true)
		fallthrough
	default:
		if !errors.Is(err, storage.ErrUnsupported) {
			r.Log.WarnContext(ctx, "cannot list the referrers of a manifest; it is adopted without them",
				slog.String("repository", r.repo.Name), slog.String("digest", string(d)), slog.Any("err", err))
		}
		return nil
	}
	for _, referrer := range found[:min(len(found), maxReferrers)] {
		if err := r.recordReferrer(ctx, referrer, d, depth); err != nil {
			return err
		}
	}
	return nil
}

// recordReferrer records one referrer of the subject d, unless the repository had it before. A referrer that cannot be adopted is
// logged and reported as a difference. Only fatal errors are returned.
func (r *run) recordReferrer(ctx context.Context, referrer, d digest.Digest, depth int) error {
	if had, err := r.Store.Upstream.HadManifest(ctx, r.repo.ID, referrer); err != nil || had {
		return err
	}
	err := r.retryOnce(ctx, func() error { return r.record(ctx, referrer, depth+1) })
	why, skip := contentError(err)
	switch {
	case err == nil:
		r.mu.Lock()
		r.attached = append(r.attached, referrer)
		r.mu.Unlock()
	case !skip && r.IsFatal(ctx, err):
		return err
	default:
		r.Log.WarnContext(ctx, "not adopted", slog.String("repository", r.repo.Name),
			slog.String("digest", string(referrer)), slog.String("subject", string(d)), slog.Any("err", err))
		reason := cmp.Or(why, Sentence(err))
		r.skip("manifest", string(referrer), reason, true)
		r.addDrift("manifest", string(referrer), "", referrer, "It refers to "+string(d)+", and it cannot be adopted: "+reason)
	}
	return nil
}
