package adopt

import (
	"context"
	"errors"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/storage"
)

// recordBlob records that the upstream has a blob under the repository's name.
func (r *run) recordBlob(ctx context.Context, d digest.Digest) error {
	have, absent, err := r.Store.Content.HasBlob(ctx, r.repo.ID, d)
	switch {
	case err != nil:
		return err
	case have == content.HaveFetched && !absent && !r.dry:
		return r.Store.Content.TouchFetched(ctx, r.repo.ID, pulp.KindBlob, string(d))
	case have != content.HaveNothing && !absent || r.dry && d == pulp.EmptyLayer:
		return nil
	}
	b, err := r.upstreamBlob(ctx, d)
	if errors.Is(err, storage.ErrNotFound) {
		return missingError{d}
	} else if err != nil || r.dry {
		return err
	}
	return r.Blobs.Record(ctx, b, func(ctx context.Context, b pulp.Blob) error {
		return r.Store.Content.FetchedBlob(ctx, r.repo.ID, "", b)
	}, nil)
}

// upstreamBlob returns the size and location of a blob of the upstream repository. It uploads the empty layer
// if it is missing, since clients reference that layer without uploading it. The error is ErrNotFound if the
// upstream does not have the blob.
func (r *run) upstreamBlob(ctx context.Context, d digest.Digest) (pulp.Blob, error) {
	name := r.repo.UpstreamName()
	if d == pulp.EmptyLayer {
		return r.Blobs.EmptyLayer(ctx, name)
	}
	size, err := r.Blobs.Storage.Stat(ctx, name, d)
	return pulp.Blob{Digest: d, Size: size, Location: name}, err
}

func (r *run) readConfig(ctx context.Context, m *pulp.Manifest) error {
	if m.Config.Size > maxConfig {
		return nil
	}
	content, err := r.Blobs.Open(ctx, pulp.Blob{Digest: m.Config.Digest, Size: m.Config.Size, Location: r.repo.UpstreamName()})
	if err != nil {
		return err
	}
	defer func() { _ = content.Close() }()
	text, err := io.ReadAll(io.LimitReader(content, maxConfig))
	if err == nil {
		m.ApplyConfig(text)
	}
	return err
}
