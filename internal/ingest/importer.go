package ingest

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/mirror"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/retry"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/storage"
)

// Importer records content of a remote as fetched for a repository. A change of the repository then adds it to a version. It is
// safe for concurrent use.
type Importer struct {
	Store     *store.Store
	Blobs     Blobs
	Validator SignatureValidator
	Upstream  storage.Manifests // nil if the storage is not a registry
	Registry  *mirror.Registry
	Repo      pulp.Repository
	Remote    pulp.Remote
	// MayTake reports whether the server's copy of a blob may be linked instead of requesting the bytes from the remote.
	MayTake func(context.Context, digest.Digest) (bool, error)
}

// maxConfig is the size limit in bytes of an image config that is read.
const maxConfig = 4 << 20

// whileSwept bounds the attempts to fetch a blob that a concurrent sweep deletes.
var whileSwept = retry.Policy{Attempts: 3, First: time.Millisecond}

// Image records a parsed manifest with its config, and its layers as absent blobs of the remote; with an upstream, or for the
// policy immediate, the layers are downloaded. It does not fetch the children of a list.
func (i *Importer) Image(ctx context.Context, m pulp.Manifest) error {
	if m.Config != nil {
		text, err := i.config(ctx, *m.Config)
		if err != nil {
			return err
		}
		m.ApplyConfig(text)
	}
	for _, l := range m.Layers {
		if len(l.URLs) > 0 || pulp.IsForeign(l.MediaType) {
			continue
		}
		if err := i.blob(ctx, l, i.Remote.Policy != pulp.Immediate && i.Upstream == nil); err != nil {
			return err
		}
	}
	if i.Upstream != nil {
		if err := i.Upstream.PutManifest(ctx, i.Repo.UpstreamName(), string(m.Digest), m.MediaType, m.Payload); err != nil {
			return err
		}
	}
	return i.Store.Content.FetchedManifest(ctx, i.Repo.ID, m)
}

// Signatures records the valid signatures of a manifest, which is stored already, from a place at the remote. It returns the
// digests of those that the repository's latest version does not have, and calls rejected for each invalid one.
func (i *Importer) Signatures(
	ctx context.Context, from mirror.Source, manifest digest.Digest, rejected func(error),
) ([]digest.Digest, error) {
	if from == mirror.NoSignatures || manifest.Algorithm() != digest.SHA256 {
		return nil, nil
	}
	found, err := i.Registry.Signatures(ctx, from, manifest)
	if err != nil {
		return nil, err
	}
	var recorded []digest.Digest
	for _, f := range found {
		g, err := i.Validator.Validate(ctx, manifest, f.Content)
		if fault.Is(err, fault.Invalid) {
			rejected(err)
			continue
		} else if err != nil {
			return recorded, err
		}
		if strings.HasPrefix(f.Name, string(manifest)+"@") {
			g.Name = f.Name
		}
		have, err := i.Store.Content.HasSignature(ctx, i.Repo.ID, g.Digest)
		if err != nil {
			return recorded, err
		}
		if have == content.HaveVersion {
			continue
		}
		if err := i.Store.Content.FetchedSignature(ctx, i.Repo.ID, manifest, g); err != nil {
			return recorded, err
		}
		recorded = append(recorded, g.Digest)
	}
	return recorded, nil
}

// config fetches an image config and returns its bytes; nil if it is larger than maxConfig.
func (i *Importer) config(ctx context.Context, d pulp.Descriptor) ([]byte, error) {
	if err := i.blob(ctx, d, false); err != nil || d.Size > maxConfig {
		return nil, err
	}
	b, err := i.Store.Serving.Blob(ctx, d.Digest)
	if err != nil {
		return nil, err
	}
	bytes, err := i.Blobs.Open(ctx, b)
	if err != nil {
		return nil, err
	}
	defer func() { _ = bytes.Close() }()
	return io.ReadAll(io.LimitReader(bytes, maxConfig))
}

// blob records a blob unless the repository has it or the server's copy may be linked. With later it is recorded as absent, to
// be fetched on demand.
func (i *Importer) blob(ctx context.Context, d pulp.Descriptor, later bool) error {
	later = later && d.Digest != pulp.EmptyLayer
	have, absent, err := i.Store.Content.HasBlob(ctx, i.Repo.ID, d.Digest)
	switch {
	case err != nil:
		return err
	case have == content.HaveVersion && (!absent || later):
		return nil
	case have == content.HaveFetched && !absent:
		return i.Store.Content.TouchFetched(ctx, i.Repo.ID, pulp.KindBlob, string(d.Digest))
	}
	if mine, err := i.MayTake(ctx, d.Digest); err != nil {
		return err
	} else if mine {
		if taken, err := i.take(ctx, d.Digest); taken || err != nil {
			return err
		}
	}
	if later {
		return i.Store.Content.FetchedBlob(ctx, i.Repo.ID, i.Remote.ID, pulp.Blob{Digest: d.Digest, Size: d.Size, Absent: true})
	}
	return retry.Run(ctx, whileSwept, func(ctx context.Context) error {
		err := i.download(ctx, d)
		if errors.Is(err, ErrRemoved) {
			return err
		}
		return retry.Permanent(err)
	})
}

// take links the server's copy of a blob, which it mounts in an upstream. It reports whether there was a copy.
func (i *Importer) take(ctx context.Context, d digest.Digest) (bool, error) {
	if i.Upstream != nil {
		b, err := i.Store.Serving.Blob(ctx, d)
		if fault.Is(err, fault.NotFound) {
			return false, nil
		} else if err != nil {
			return false, err
		}
		if !b.Inline && b.Location != i.Repo.UpstreamName() {
			err := i.Blobs.Storage.Mount(ctx, b.Location, i.Repo.UpstreamName(), d)
			if errors.Is(err, storage.ErrNotFound) {
				return false, nil
			} else if err != nil {
				return false, err
			}
		}
	}
	return i.Store.Content.TakeBlob(ctx, i.Repo.ID, i.Remote.ID, d)
}

// download downloads and records a blob.
func (i *Importer) download(ctx context.Context, d pulp.Descriptor) error {
	b, err := i.receive(ctx, d)
	if err != nil {
		return err
	}
	return i.Blobs.Record(ctx, b, func(ctx context.Context, b pulp.Blob) error {
		return i.Store.Content.FetchedBlob(ctx, i.Repo.ID, i.Remote.ID, b)
	}, nil)
}

// receive downloads a blob into the storage. The empty layer is created here, since many remotes do not have it although their
// images reference it.
func (i *Importer) receive(ctx context.Context, d pulp.Descriptor) (pulp.Blob, error) {
	if d.Digest == pulp.EmptyLayer {
		return i.Blobs.EmptyLayer(ctx, i.Repo.UpstreamName())
	}
	body, err := i.Registry.Blob(ctx, d.Digest, d.Size)
	if err != nil {
		return pulp.Blob{}, err
	}
	defer func() { _ = body.Close() }()
	b, err := i.Blobs.Receive(ctx, i.Repo.UpstreamName(), d.Digest, body)
	if errors.Is(err, storage.ErrDigest) {
		err = fault.Wrap(fault.Unavailable, mirror.ErrCorrupt, "The remote's bytes are not those of %s.", d.Digest)
	}
	return b, err
}
