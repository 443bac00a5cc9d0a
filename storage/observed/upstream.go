package observed

import (
	"context"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/storage"
)

// upstream is a wrapper of a storage that is a registry of its own.
type upstream struct {
	wrapper
	registry upstreamStorage
}

// OpenPart opens a blob to read one part of it.
func (u *upstream) OpenPart(ctx context.Context, name string, dgst digest.Digest, part storage.Part) (io.ReadSeekCloser, error) {
	o := u.begin(ctx, opOpen)
	content, err := u.registry.OpenPart(ctx, name, dgst, part)
	o.end(err)
	return content, err
}

// Locate opens a part of a blob, or returns a URL from which clients can get it.
func (u *upstream) Locate(ctx context.Context, name string, dgst digest.Digest, part storage.Part) (string, io.ReadSeekCloser, error) {
	o := u.begin(ctx, opOpen)
	at, content, err := u.registry.Locate(ctx, name, dgst, part)
	o.end(err)
	return at, content, err
}

// PutManifest implements storage.Manifests.
func (u *upstream) PutManifest(ctx context.Context, name, reference, mediaType string, payload []byte) error {
	o := u.begin(ctx, opPutManifest)
	err := u.registry.PutManifest(ctx, name, reference, mediaType, payload)
	o.end(err)
	return err
}

// GetManifest implements storage.Manifests.
func (u *upstream) GetManifest(ctx context.Context, name, reference string) ([]byte, string, error) {
	o := u.begin(ctx, opGetManifest)
	payload, mediaType, err := u.registry.GetManifest(ctx, name, reference)
	o.end(err)
	return payload, mediaType, err
}

// DeleteManifest implements storage.Manifests.
func (u *upstream) DeleteManifest(ctx context.Context, name, reference string) error {
	o := u.begin(ctx, opDeleteManifest)
	err := u.registry.DeleteManifest(ctx, name, reference)
	o.end(err)
	return err
}

// Resolve implements storage.Manifests.
func (u *upstream) Resolve(ctx context.Context, name, reference string, accept ...string) (digest.Digest, error) {
	o := u.begin(ctx, opResolve)
	dgst, err := u.registry.Resolve(ctx, name, reference, accept...)
	o.end(err)
	return dgst, err
}

// Tags implements storage.Manifests.
func (u *upstream) Tags(ctx context.Context, name string) ([]string, error) {
	o := u.begin(ctx, opTags)
	tags, err := u.registry.Tags(ctx, name)
	o.end(err)
	return tags, err
}

// Referrers implements storage.Manifests.
func (u *upstream) Referrers(ctx context.Context, name string, subject digest.Digest) ([]digest.Digest, error) {
	o := u.begin(ctx, opReferrers)
	digests, err := u.registry.Referrers(ctx, name, subject)
	o.end(err)
	return digests, err
}

// Catalog implements storage.Manifests.
func (u *upstream) Catalog(ctx context.Context) ([]string, error) {
	o := u.begin(ctx, opCatalog)
	names, err := u.registry.Catalog(ctx)
	o.end(err)
	return names, err
}
