package proxy

import (
	"context"
	"errors"
	"log/slog"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/storage"
)

// mount links a blob of another repository that the caller may read, and answers. Where there is none it says false: the client
// then uploads, and learns nothing of what others hold.
func (c *call) mount(t record.Target, from string, dgst digest.Digest) (bool, error) {
	if !validDigest(dgst) || from != "" && !pulp.ValidName(from) {
		return false, nil
	}
	if dgst == pulp.EmptyLayer {
		err := c.supplyEmptyLayer(t)
		c.audit("mount blob", err, slog.String("digest", string(dgst)), slog.String("from", from))
		if err == nil {
			c.answerBlob(dgst)
		}
		return err == nil, err
	}
	b, err := c.mountable(t, from, dgst)
	if err == nil {
		err = c.place(c.r.Context(), t, b)
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
	c.answerBlob(dgst)
	return true, nil
}

// mountable finds a blob that the caller may read: in the repository that they name, or, when they name none, here or in any that they may
// read. NotFound when there is none. What counts is what the user may, not what their token is limited to: clients ask for a token for
// where they push, and a mount discloses nothing but bytes whose digest the caller knows already.
func (c *call) mountable(t record.Target, from string, dgst digest.Digest) (pulp.Blob, error) {
	ctx := c.r.Context()
	if from == "" {
		if b, err := c.Store.Serving.ServedBlob(ctx, t, dgst); !fault.Is(err, fault.NotFound) && !b.Absent {
			return b, err
		}
	}
	holders, err := c.Store.Serving.BlobHolders(ctx, dgst, from, mountCandidates)
	if err != nil {
		return pulp.Blob{}, err
	}
	for _, d := range holders {
		if auth.Allow(c.who.user, auth.Pull, c.object(d.BasePath, record.Target{Distribution: d}, true)) {
			b, err := c.Store.Serving.ServedBlob(ctx, record.Target{Distribution: d, Repository: pulp.Repository{ID: d.RepositoryID}}, dgst)
			if err == nil && b.Absent { // a remote's word is no blob
				continue
			}
			return b, err
		}
	}
	return pulp.Blob{}, fault.New(fault.NotFound, "Blob not found.")
}

// mountCandidates is how many repositories that hold a blob are looked at for one that the caller may read.
const mountCandidates = 20

// place sees that an upstream holds a blob under the repository's name too, where there is an upstream.
func (c *call) place(ctx context.Context, t record.Target, b pulp.Blob) error {
	within := t.Repository.UpstreamName()
	if c.manifests == nil || b.Inline || b.Location == within {
		return nil
	}
	return c.Storage.Mount(ctx, b.Location, within, b.Digest)
}
