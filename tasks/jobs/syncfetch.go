package jobs

import (
	"context"
	"errors"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/ingest"
	"github.com/countersign/countersign/internal/mirror"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/retry"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/storage"
)

// fetch fetches the missing parts of an image: children first, and blobs before the manifest. Each manifest is
// fetched once.
func (o *oneSync) fetch(ctx context.Context, img *image) error {
	_, err := o.parts.do(ctx, string(img.manifest.Digest), func() (struct{}, error) {
		for _, child := range img.children {
			if child.manifest.Digest == "" {
				continue
			}
			if err := o.fetch(ctx, child); err != nil {
				return struct{}{}, err
			}
			if img.held && !child.held { // the repository has the list already, without this child
				o.mu.Lock()
				o.wanted.Manifests = append(o.wanted.Manifests, child.manifest.Digest)
				o.mu.Unlock()
			}
		}
		if err := o.fetchBlobs(ctx, img); err != nil {
			return struct{}{}, err
		}
		if !img.held {
			if err := o.keepManifest(ctx, img.manifest); err != nil {
				return struct{}{}, err
			}
		}
		err := o.keepSignatures(ctx, img)
		o.mu.Lock()
		o.taken[img.manifest.Digest] = true
		o.mu.Unlock()
		o.release(img)
		return struct{}{}, err
	})
	if err == nil {
		o.release(img) // for an image that was inspected twice
	}
	return err
}

// release drops the parts of an image that are not needed any more, to limit the memory of a sync. It may be
// called again.
func (o *oneSync) release(img *image) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.held.Add(-int64(len(img.manifest.Payload)))
	// keeps the digest, which other goroutines may be reading
	img.manifest.Payload, img.manifest.Config, img.manifest.Layers, img.manifest.Children = nil, nil, nil, nil
	img.children, img.signatures = nil, nil
}

func (o *oneSync) keepManifest(ctx context.Context, m pulp.Manifest) error {
	if o.Upstream != nil {
		if err := o.Upstream.PutManifest(ctx, o.repo.UpstreamName(), string(m.Digest), m.MediaType, m.Payload); err != nil {
			return err
		}
	}
	return o.Store.Content.FetchedManifest(ctx, o.repo.ID, m)
}

func (o *oneSync) keepSignatures(ctx context.Context, img *image) error {
	for _, g := range img.signatures {
		have, err := o.Store.Content.HasSignature(ctx, o.repo.ID, g.Digest)
		if err != nil {
			return err
		}
		if have == content.HaveVersion {
			continue
		}
		// for a fetched one this renews its retention
		if err := o.Store.Content.FetchedSignature(ctx, o.repo.ID, img.manifest.Digest, g); err != nil {
			return err
		}
		o.mu.Lock()
		o.wanted.Signatures = append(o.wanted.Signatures, g.Digest)
		o.mu.Unlock()
	}
	return nil
}

// fetchBlobs fetches an image's config and layers, and copies attributes of the config to the manifest.
func (o *oneSync) fetchBlobs(ctx context.Context, img *image) error {
	m := &img.manifest
	if m.Config != nil && (!img.held || o.absent[m.Config.Digest]) {
		text, err := o.fetchConfig(ctx, *m.Config)
		if err != nil {
			return err
		}
		m.ApplyConfig(text)
	}
	for _, l := range m.Layers {
		if len(l.URLs) > 0 || pulp.IsForeign(l.MediaType) || img.held && !o.absent[l.Digest] {
			continue
		}
		if _, err := o.blobs.do(ctx, string(l.Digest), func() (struct{}, error) {
			return struct{}{}, o.fetchBlob(ctx, l, o.remote.Policy != pulp.Immediate && o.Upstream == nil)
		}); err != nil {
			return err
		}
	}
	return nil
}

// fetchConfig fetches an image config and returns its bytes; nil if it is larger than maxConfig.
func (o *oneSync) fetchConfig(ctx context.Context, d pulp.Descriptor) ([]byte, error) {
	if _, err := o.blobs.do(ctx, "config "+string(d.Digest), func() (struct{}, error) { return struct{}{}, o.fetchBlob(ctx, d, false) }); err != nil {
		return nil, err
	}
	if d.Size > maxConfig {
		return nil, nil
	}
	b, err := o.Store.Serving.Blob(ctx, d.Digest)
	if err != nil {
		return nil, err
	}
	content, err := o.Blobs.Open(ctx, b)
	if err != nil {
		return nil, err
	}
	defer func() { _ = content.Close() }()
	return io.ReadAll(io.LimitReader(content, maxConfig))
}

// fetchBlob fetches a blob unless the repository has it or the server's copy may be linked. With later it only
// records the blob as absent, to be fetched on demand.
func (o *oneSync) fetchBlob(ctx context.Context, d pulp.Descriptor, later bool) error {
	have, absent, err := o.Store.Content.HasBlob(ctx, o.repo.ID, d.Digest)
	if err != nil {
		return err
	}
	if have != content.HaveNothing && (!absent || later && d.Digest != pulp.EmptyLayer) {
		if have == content.HaveFetched && absent { // the remote that it was recorded for may be deleted
			return o.claim(ctx, d)
		}
		if have == content.HaveFetched {
			return o.Store.Content.TouchFetched(ctx, o.repo.ID, pulp.KindBlob, string(d.Digest))
		}
		return nil
	}
	if mine, err := o.mayTake(ctx, d.Digest); err != nil {
		return err
	} else if mine {
		taken, err := o.takeBlob(ctx, d.Digest)
		if taken || err != nil {
			return err
		}
	}
	if later && d.Digest != pulp.EmptyLayer {
		return o.Store.Content.FetchedBlob(ctx, o.repo.ID, o.remote.ID, pulp.Blob{Digest: d.Digest, Size: d.Size, Absent: true})
	}
	return retry.Run(ctx, whileSwept, func(ctx context.Context) error {
		err := o.download(ctx, d)
		if errors.Is(err, ingest.ErrRemoved) {
			return err
		}
		return retry.Permanent(err)
	})
}

// claim records the remote as a source of an absent blob.
func (o *oneSync) claim(ctx context.Context, d pulp.Descriptor) error {
	return o.Store.Content.FetchedBlob(ctx, o.repo.ID, o.remote.ID, pulp.Blob{Digest: d.Digest, Size: d.Size, Absent: true})
}

// mayTake reports whether the task's user may read a blob elsewhere on this server, so that the server's copy
// may be linked. Otherwise the remote must send the bytes: a remote that only lists a digest must not give
// access to blobs of other users.
func (o *oneSync) mayTake(ctx context.Context, d digest.Digest) (bool, error) {
	user := o.task.User()
	if user.Staff {
		return true, nil
	}
	caller := &access.Caller{Account: user}
	viewer, err := o.Access.Viewer(ctx, caller)
	if err != nil {
		return false, err
	}
	found, err := o.Store.Serving.BlobHolders(ctx, viewer, d, "", holders)
	if err != nil {
		return false, err
	}
	for _, h := range found {
		if may, err := o.Access.Allow(ctx, caller, access.Pull, access.OfDistribution(h), h.ID); may || err != nil {
			return may, err
		}
	}
	return false, nil
}

// takeBlob links the server's copy of a blob. With an upstream it also mounts the blob there. It reports
// whether there was a copy.
func (o *oneSync) takeBlob(ctx context.Context, d digest.Digest) (bool, error) {
	if o.Upstream != nil {
		b, err := o.Store.Serving.Blob(ctx, d)
		if fault.Is(err, fault.NotFound) {
			return false, nil
		} else if err != nil {
			return false, err
		}
		if !b.Inline && b.Location != o.repo.UpstreamName() {
			err := o.Blobs.Storage.Mount(ctx, b.Location, o.repo.UpstreamName(), d)
			if errors.Is(err, storage.ErrNotFound) {
				return false, nil
			} else if err != nil {
				return false, err
			}
		}
	}
	return o.Store.Content.TakeBlob(ctx, o.repo.ID, o.remote.ID, d)
}

// receive downloads a blob into the storage. The empty layer is created here, since many remotes do not have it
// although their images reference it.
func (o *oneSync) receive(ctx context.Context, d pulp.Descriptor) (pulp.Blob, error) {
	if d.Digest == pulp.EmptyLayer {
		return o.Blobs.EmptyLayer(ctx, o.repo.UpstreamName())
	}
	body, err := o.registry.Blob(ctx, d.Digest, d.Size)
	if err != nil {
		return pulp.Blob{}, err
	}
	defer func() { _ = body.Close() }()
	b, err := o.Blobs.Receive(ctx, o.repo.UpstreamName(), d.Digest, body)
	if errors.Is(err, storage.ErrDigest) {
		err = fault.Wrap(fault.Unavailable, mirror.ErrCorrupt, "The remote's bytes are not those of %s.", d.Digest)
	}
	return b, err
}

// download downloads and records a blob.
func (o *oneSync) download(ctx context.Context, d pulp.Descriptor) error {
	b, err := o.receive(ctx, d)
	if err != nil {
		return err
	}
	err = o.Blobs.Record(ctx, b, func(ctx context.Context, b pulp.Blob) error {
		return o.Store.Content.FetchedBlob(ctx, o.repo.ID, o.remote.ID, b)
	}, nil)
	if err == nil {
		o.downloads.Add(1)
	}
	return err
}
