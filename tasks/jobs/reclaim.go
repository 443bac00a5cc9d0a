package jobs

import (
	"context"
	"errors"
	"log/slog"
	"net/url"
	"strings"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/mirror"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/tasks"
)

// reclaimBatch is the number of blobs that one transaction of a reclaim releases at most.
const reclaimBatch = 100

// reclaim deletes the bytes of blobs that mirrors can fetch again, and reports their number and size
// (compatibility.md#reclaiming-space). It asks the remotes for every blob first, and keeps those that they do not have.
func (o Options) reclaim(ctx context.Context, r *tasks.Run, args tasks.ReclaimArgs) error {
	if o.Upstream != nil {
		return fault.New(fault.Invalid, "The blobs are stored by the upstream registry; reclaim the space there.")
	}
	c := reclaimer{
		Options: o, log: o.Log.With(slog.String("task", r.Task.ID)), remotes: map[string]*opened{},
		released: r.Report("reclaim-space.artifact", "Reclaim disk space", -1),
		bytes:    r.Report("reclaim-space.bytes", "Bytes of released blobs", -1),
		kept:     r.Report("reclaim-space.kept", "Blobs that a remote does not have or did not answer for", -1),
	}
	defer c.close()
	if err := c.housekeeper().unendedReleases(ctx); err != nil { // of an earlier attempt
		return err
	}
	from := content.Reclaim{Repositories: args.Repositories, Keep: args.Keep}
	after := ""
	for {
		found, err := o.Store.Content.Releasable(ctx, from, after, reclaimBatch)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return errors.Join(c.released.Complete(ctx), c.bytes.Complete(ctx), c.kept.Complete(ctx))
		}
		after = found[len(found)-1].ID
		if err := c.release(ctx, from, found); err != nil {
			return err
		}
	}
}

// reclaimer is one reclaim of space.
type reclaimer struct {
	Options
	log                   *slog.Logger
	remotes               map[string]*opened // by id
	released, bytes, kept *tasks.Report
}

func (c reclaimer) close() {
	for _, o := range c.remotes {
		o.close()
	}
}

// opened is a remote in the state in which it was opened. The registry is nil if it does not answer.
type opened struct {
	remote   pulp.Remote
	registry *mirror.Registry
}

func (o *opened) close() {
	if o.registry != nil {
		o.registry.Close()
		o.registry = nil
	}
}

// release releases those of some blobs that their remotes have.
func (c reclaimer) release(ctx context.Context, from content.Reclaim, found []content.Releasable) error {
	var there []content.Releasable
	for _, b := range found {
		ok, err := c.areThere(ctx, b)
		switch {
		case err != nil:
			return err
		case ok:
			there = append(there, b)
		default:
			c.kept.Add(1)
		}
	}
	if len(there) == 0 {
		return nil
	}
	return c.housekeeper().endReleases(ctx, func() ([]content.Released, error) {
		return c.Store.Content.Release(ctx, from, there)
	}, func(b content.Released) {
		c.released.Add(1)
		c.bytes.Add(int(b.Size))
	})
}

func (c reclaimer) housekeeper() Housekeeper {
	return Housekeeper{Store: c.Store, Storage: c.Blobs.Storage, Log: c.Log, Embedded: true}
}

// areThere reports whether all remotes of a blob have it.
func (c reclaimer) areThere(ctx context.Context, b content.Releasable) (bool, error) {
	for _, id := range b.Remotes {
		registry, err := c.remote(ctx, id)
		if err != nil || registry == nil {
			return false, err
		}
		has, err := registry.HasBlob(ctx, b.Digest, b.Size)
		switch {
		case ctx.Err() != nil:
			return false, context.Cause(ctx)
		case err != nil: // it is not asked for the other blobs either: each may take as long to fail
			c.remotes[id].close()
			c.log.WarnContext(ctx, "the remote does not answer; its blobs are kept", slog.String("remote", id), slog.Any("err", err))
			return false, nil
		case !has:
			c.log.InfoContext(ctx, "the remote no longer has a blob; it is kept",
				slog.String("remote", id), slog.String("digest", string(b.Digest)))
			return false, nil
		}
	}
	return true, nil
}

// remote returns a connection to a remote in its present state, which may change during the task. It returns nil for a remote
// that does not answer, and for this server itself, which has nothing but the bytes that are to be released.
func (c reclaimer) remote(ctx context.Context, id string) (*mirror.Registry, error) {
	remote, err := c.Store.Catalog.Remote(ctx, id)
	if fault.Is(err, fault.NotFound) || err == nil && c.isThisServer(remote) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if o, known := c.remotes[id]; known {
		if remote.SameSource(o.remote) {
			return o.registry, nil
		}
		o.close()
	}
	registry, err := c.Mirror.Open(remote)
	if err != nil {
		c.log.WarnContext(ctx, "cannot use the remote; its blobs are kept", slog.String("remote", remote.Name), slog.Any("err", err))
	}
	c.remotes[id] = &opened{remote, registry}
	return registry, nil
}

func (c reclaimer) isThisServer(remote pulp.Remote) bool {
	u, err := url.Parse(remote.URL)
	return err == nil && strings.EqualFold(u.Host, c.Host)
}

// endReleases deletes the bytes of the blobs that release returns, under a lock, and calls done for each.
func (h Housekeeper) endReleases(ctx context.Context, release func() ([]content.Released, error), done func(content.Released)) error {
	return h.Store.DB.WithLock(ctx, sqldb.BlobRemoval, func(still func() error) error {
		released, err := release()
		if err != nil {
			return err
		}
		for _, b := range released {
			if err := errors.Join(still(), context.Cause(ctx)); err != nil {
				return err
			}
			if err := h.Storage.Delete(ctx, b.Location, b.Digest); err != nil {
				return err
			}
			if err := h.Store.Content.EndRelease(ctx, b.ID); err != nil {
				return err
			}
			done(b)
		}
		return nil
	})
}

// unendedReleases deletes the bytes of released blobs that a killed process has left.
func (h Housekeeper) unendedReleases(ctx context.Context) error {
	if !h.Embedded {
		return nil
	}
	return h.repeat(ctx, "bytes of released blobs", func() (n int64, err error) {
		err = h.endReleases(ctx, func() ([]content.Released, error) {
			return h.Store.Content.UnendedReleases(ctx, purgeBatch)
		}, func(content.Released) { n++ })
		return n, err
	})
}
