package proxy

import (
	"context"
	"errors"
	"log/slog"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/storage"
)

// mount mounts a blob of another repository that the caller may read, sends the response and returns true. It returns
// false if there is no such blob: then the client uploads it, and learns nothing about repositories of others.
func (c *call) mount(t record.Target, from string, dgst digest.Digest) (bool, error) {
	if !validDigest(dgst) || from != "" && !pulp.ValidName(from) {
		return false, nil
	}
	if dgst == pulp.EmptyLayer {
		err := c.addEmptyLayer(t)
		c.audit("mount blob", err, slog.String("digest", string(dgst)), slog.String("from", from))
		if err == nil {
			c.writeBlobCreated(dgst)
		}
		return err == nil, err
	}
	b, err := c.findMountable(t, from, dgst)
	if err == nil {
		err = c.placeUpstream(c.r.Context(), t, b)
	}
	if err == nil {
		err = c.Store.Content.LinkBlob(c.r.Context(), t.Repository.ID, b)
	}
	if fault.Is(err, fault.NotFound) || errors.Is(err, storage.ErrNotFound) || errors.Is(err, content.ErrDeleting) {
		return false, nil
	}
	c.audit("mount blob", err, slog.String("digest", string(dgst)), slog.String("from", from))
	if err != nil {
		return false, err
	}
	c.writeBlobCreated(dgst)
	return true, nil
}

// findMountable returns a blob that the caller may read: from the repository from or, if that is empty, from the
// target or any other repository. The error is NotFound if there is none. The user's permissions count, not the
// scopes of the token: clients request a token only for the repository that they push to, and a mount discloses
// nothing but bytes whose digest the caller already knows. The queries do not depend on repositories that the caller may
// not read.
func (c *call) findMountable(t record.Target, from string, dgst digest.Digest) (pulp.Blob, error) {
	ctx := c.r.Context()
	if from == "" {
		if b, err := c.Store.Serving.ServedBlob(ctx, t, dgst); !fault.Is(err, fault.NotFound) && !b.Absent {
			return b, err
		}
	}
	viewer, err := c.Access.Viewer(ctx, c.caller.Caller)
	if err != nil {
		return pulp.Blob{}, err
	}
	holders, err := c.Store.Serving.BlobHolders(ctx, viewer, dgst, from, maxMountCandidates)
	if err != nil {
		return pulp.Blob{}, err
	}
	for _, d := range holders {
		may, err := c.Access.AllowPath(ctx, c.caller.Caller, access.Pull, c.distribution(d.BasePath, d.Private))
		if err != nil {
			return pulp.Blob{}, err
		}
		if may {
			b, err := c.Store.Serving.ServedBlob(
				ctx,
				record.Target{Distribution: d, Repository: pulp.Repository{ID: d.RepositoryID}},
				dgst,
			)
			if err == nil && b.Absent { // its content was never verified
				continue
			}
			return b, err
		}
	}
	return pulp.Blob{}, fault.New(fault.NotFound, "Blob not found.")
}

// maxMountCandidates is the number of repositories with the blob whose permissions findMountable checks.
const maxMountCandidates = 20

// placeUpstream mounts a blob into the upstream's repository of the target, if there is an upstream and it is not there
// yet.
func (c *call) placeUpstream(ctx context.Context, t record.Target, b pulp.Blob) error {
	within := t.Repository.UpstreamName()
	if c.manifests == nil || b.Inline || b.Location == within {
		return nil
	}
	return c.Storage.Mount(ctx, b.Location, within, b.Digest)
}
