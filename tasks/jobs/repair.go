package jobs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/opencontainers/go-digest"

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
	p := o.repairer(r, args.VerifyChecksums)
	for _, d := range digests {
		if err := p.blob(ctx, d); err != nil {
			return err
		}
	}
	return p.end(ctx, func() ([]digest.Digest, int64, error) {
		return o.Store.Serving.BlobsWithoutSource(ctx, args.RepositoryID, args.Number, namesReported)
	})
}

// repairAll finds all blobs that are missing or corrupt, and fetches them again from remotes. With VerifyChecksums it finds
// corrupt manifests and signatures, too; they are in the database, and are only counted and logged
// (compatibility.md#repairing-all-content).
func (o Options) repairAll(ctx context.Context, r *tasks.Run, args tasks.RepairAllArgs) error {
	p := o.repairer(r, args.VerifyChecksums)
	for after, more := "", true; more; {
		digests, last, err := o.Store.Content.Blobs(ctx, after, repairBatch)
		if err != nil {
			return err
		}
		for _, d := range digests {
			if err := p.blob(ctx, d); err != nil {
				return err
			}
		}
		after, more = last, len(digests) == repairBatch
	}
	if args.VerifyChecksums {
		for _, kind := range []pulp.Kind{pulp.KindManifest, pulp.KindSignature} {
			if err := p.stored(ctx, kind); err != nil {
				return err
			}
		}
	}
	return p.end(ctx, func() ([]digest.Digest, int64, error) {
		return o.Store.Serving.AllBlobsWithoutSource(ctx, namesReported)
	})
}

// Sizes of the pieces that a repair reads: digests of blobs, and payloads of at most 4 MiB.
const (
	repairBatch  = 1000
	payloadBatch = 20
)

// repairer is one repair.
type repairer struct {
	Options
	run                 *tasks.Run
	log                 *slog.Logger
	checksums           bool // verify the digests, too
	corrupted, repaired *tasks.Report
}

func (o Options) repairer(r *tasks.Run, checksums bool) repairer {
	return repairer{
		Options: o, run: r, log: o.Log.With(slog.String("task", r.Task.ID)), checksums: checksums,
		corrupted: r.Report("repair.corrupted", "Identify corrupted units", -1),
		repaired:  r.Report("repair.repaired", "Repair corrupted units", -1),
	}
}

// blob checks a blob, and fetches it again if it is missing or corrupt. It ignores a blob that was deleted meanwhile.
func (p repairer) blob(ctx context.Context, d digest.Digest) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	b, err := p.Store.Serving.Blob(ctx, d)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	intact, err := p.isIntact(ctx, b, p.checksums)
	if err != nil || intact {
		return err
	}
	if b, err = p.Store.Serving.Blob(ctx, d); fault.Is(err, fault.NotFound) || err == nil && b.Absent { // its bytes were released
		return nil
	} else if err != nil {
		return err
	}
	p.corrupted.Add(1)
	if err := p.refetch(ctx, b); err != nil {
		p.log.ErrorContext(ctx, "cannot repair a corrupt blob", slog.String("digest", string(b.Digest)), slog.Any("err", err))
		return nil
	}
	p.log.WarnContext(ctx, "repaired a corrupt blob", slog.String("digest", string(b.Digest)))
	p.repaired.Add(1)
	return nil
}

// stored verifies the digests of the manifests or signatures in the database.
func (p repairer) stored(ctx context.Context, kind pulp.Kind) error {
	for after := ""; ; {
		payloads, err := p.Store.Content.Payloads(ctx, kind, after, payloadBatch)
		if err != nil || len(payloads) == 0 {
			return err
		}
		for _, v := range payloads {
			if after = v.ID; v.Digest.Algorithm().FromBytes(v.Bytes) != v.Digest {
				p.corrupted.Add(1)
				p.log.ErrorContext(ctx, "corrupt content in the database; restore a backup of the database",
					slog.String("kind", kind.String()), slog.String("digest", string(v.Digest)))
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// end completes the progress reports. It adds one about absent blobs that no remote has any more, if there are any: an
// on-demand sync has not fetched them. It contains the first digests, which unavailable returns with the number of all.
func (p repairer) end(ctx context.Context, unavailable func() ([]digest.Digest, int64, error)) error {
	if err := errors.Join(p.corrupted.Complete(ctx), p.repaired.Complete(ctx)); err != nil {
		return err
	}
	digests, n, err := unavailable()
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
	p.log.WarnContext(ctx, message)
	report := p.run.Report("repair.unavailable", message, int(n))
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
