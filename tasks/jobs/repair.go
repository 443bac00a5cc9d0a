package jobs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/ingest"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/storage"
	"github.com/countersign/countersign/tasks"
)

// repair finds the blobs of a version that are missing or corrupt, and fetches them again from remotes
// (compatibility.md#repository-versions). Blobs that no remote has stay corrupt and are logged.
func (o Options) repair(ctx context.Context, r *tasks.Run, args tasks.VersionArgs) error {
	digests, err := o.Store.Content.VersionBlobs(ctx, args.RepositoryID, args.Number)
	if err != nil {
		return err
	}
	corrupted := r.Report("repair.corrupted", "Identify corrupted units", -1)
	repaired := r.Report("repair.repaired", "Repair corrupted units", -1)
	log := o.Log.With(slog.String("task", r.Task.ID))
	for _, d := range digests {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		b, err := o.Store.Serving.Blob(ctx, d)
		if err != nil {
			return err
		}
		intact, err := o.isIntact(ctx, b, args.VerifyChecksums)
		if err != nil {
			return err
		}
		if intact {
			continue
		}
		corrupted.Add(1)
		if err := o.refetch(ctx, b); err != nil {
			log.ErrorContext(ctx, "cannot repair a corrupt blob", slog.String("digest", string(b.Digest)), slog.Any("err", err))
			continue
		}
		log.WarnContext(ctx, "repaired a corrupt blob", slog.String("digest", string(b.Digest)))
		repaired.Add(1)
	}
	return errors.Join(corrupted.Complete(ctx), repaired.Complete(ctx), o.reportUnavailable(ctx, r, args))
}

// reportUnavailable adds a progress report about absent blobs of a version that no remote has any more: an
// on-demand sync has not fetched them. It contains the first digests.
func (o Options) reportUnavailable(ctx context.Context, r *tasks.Run, args tasks.VersionArgs) error {
	digests, n, err := o.Store.Serving.BlobsWithoutSource(ctx, args.RepositoryID, args.Number, namesReported)
	if err != nil || n == 0 {
		return err
	}
	names := make([]string, len(digests))
	for i, d := range digests {
		names[i] = string(d)
	}
	message := "Blobs that were never fetched and that no remote has any more; sync again, or push them: " + strings.Join(names, ", ")
	if more := n - int64(len(names)); more > 0 {
		message += fmt.Sprintf(", and %d more", more)
	}
	o.Log.WarnContext(ctx, message, slog.String("task", r.Task.ID))
	report := r.Report("repair.unavailable", message, int(n))
	report.Add(int(n))
	return report.Complete(ctx)
}

// isIntact reports whether a blob is complete. With read it also verifies the digest.
func (o Options) isIntact(ctx context.Context, b pulp.Blob, read bool) (bool, error) {
	if b.Absent {
		return true, nil
	}
	if !b.Inline {
		size, err := o.Blobs.Storage.Stat(ctx, b.Location, b.Digest)
		if errors.Is(err, storage.ErrNotFound) || err == nil && size != b.Size {
			return false, nil
		}
		if err != nil || !read {
			return true, err
		}
	}
	content, err := o.Blobs.Open(ctx, b)
	if err != nil {
		return false, err
	}
	defer func() { _ = content.Close() }()
	verifier := b.Digest.Verifier()
	if _, err := io.Copy(verifier, content); err != nil {
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		o.Log.WarnContext(ctx, "cannot read a blob", slog.String("digest", string(b.Digest)), slog.Any("err", err))
		return false, nil
	}
	return verifier.Verified(), nil
}

// refetch replaces a corrupt blob with a remote's copy.
func (o Options) refetch(ctx context.Context, b pulp.Blob) error {
	if b.Inline || o.Upstream != nil {
		return errors.New("it is in the database or in the upstream, not in the storage")
	}
	if b.Digest == pulp.EmptyLayer {
		_, err := ingest.Blobs{Storage: o.Blobs.Storage}.EmptyLayer(ctx, b.Location)
		return err
	}
	remotes, err := o.Store.Serving.BlobSources(ctx, b.ID)
	if err != nil {
		return err
	}
	err = ingest.ErrNoSource
	for _, remote := range remotes {
		if err = o.refetchFrom(ctx, remote, b); err == nil {
			return nil
		}
	}
	return err
}

func (o Options) refetchFrom(ctx context.Context, remote pulp.Remote, b pulp.Blob) error {
	registry, err := o.Mirror.Open(remote)
	if err != nil {
		return err
	}
	defer registry.Close()
	body, err := registry.Blob(ctx, b.Digest, b.Size)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	_, err = ingest.Blobs{Storage: o.Blobs.Storage}.Receive(ctx, b.Location, b.Digest, body)
	if errors.Is(err, storage.ErrDigest) {
		err = fault.New(fault.Unavailable, "The remote's bytes are not those of %s.", b.Digest)
	}
	return err
}
