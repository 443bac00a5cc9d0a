package ingest

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/mirror"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/registryclient"
	"github.com/countersign/countersign/storage"
)

// transfer is the download of a blob from a remote.
type transfer struct {
	*BlobFetcher
	ctx      context.Context //nolint:containedctx // the context of the transfer; it ends when the transfer must end
	cancel   context.CancelCauseFunc
	stop     func() // releases the timer of ctx
	meter    *registryclient.Meter
	repo     pulp.Repository
	blob     pulp.Blob
	remote   pulp.Remote
	registry *mirror.Registry
	body     io.ReadCloser
	broken   bool // the remote did not send all of the blob, or wrong bytes
}

// transfer prepares a transfer. If the blob is stored the transfer continues after the request that causes it.
func (f *BlobFetcher) transfer(ctx context.Context, repo pulp.Repository, b pulp.Blob, remote pulp.Remote) *transfer {
	t := &transfer{BlobFetcher: f, repo: repo, blob: b, remote: remote}
	if t.kept() {
		ctx = context.WithoutCancel(ctx)
	}
	total := f.scheduler().limits.Total
	ctx, t.stop = context.WithTimeoutCause(ctx, total, fault.New(fault.Unavailable, "The blob took longer than %v.", total))
	ctx, t.cancel = context.WithCancelCause(ctx)
	t.ctx, t.meter = f.Mirror.Pace.Start(ctx)
	return t
}

// kept reports whether the blob is stored.
func (t *transfer) kept() bool { return t.remote.Policy != pulp.Streamed }

// open requests the blob from the remote. It waits at most one window of the minimum rate.
func (t *transfer) open() (err error) {
	go t.watch()
	limit := t.meter.Window()
	slow := time.AfterFunc(limit, func() {
		t.cancel(fault.New(fault.Unavailable, "The remote has not answered for %v.", limit))
	})
	defer slow.Stop()
	if t.registry, err = t.Mirror.Open(t.remote); err != nil {
		return asUnavailable(err)
	}
	t.body, err = t.registry.Blob(t.ctx, t.blob.Digest, t.blob.Size)
	switch {
	case err == nil:
		return nil
	case fault.Is(err, fault.NotFound):
		return ErrLacks
	}
	return t.failed(asUnavailable(err))
}

// blame records a failure of the remote, so that another remote is asked next. It does not record an end for another
// reason.
func (t *transfer) blame(err error) {
	if errors.Is(err, errChanged) || errors.Is(err, context.Canceled) {
		return
	}
	ctx := context.WithoutCancel(t.ctx)
	if err := t.Store.Content.SourceFailed(ctx, t.repo.ID, t.blob.ID, t.remote.ID, errors.Is(err, ErrLacks)); err != nil {
		t.Log.WarnContext(ctx, "the failure of a remote is not recorded",
			slog.String("digest", string(t.blob.Digest)), slog.String("remote", t.remote.Name), slog.Any("err", err))
	}
}

// failed returns the cause of the end of the transfer's context if that has ended, and err otherwise.
func (t *transfer) failed(err error) error {
	cause := context.Cause(t.ctx)
	switch {
	case err == nil || cause == nil:
		return err
	case errors.Is(cause, errChanged) || errors.Is(cause, context.Canceled):
		return cause
	}
	return asUnavailable(cause)
}

// Read implements io.Reader for the bytes of the remote.
func (t *transfer) Read(p []byte) (int, error) {
	n, err := t.meter.Read(t.body, p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = asUnavailable(err)
		t.broken = true
	}
	return n, err
}

// asUnavailable wraps an error of a remote. The remote's words are for the log only: clients need not know which
// registry the bytes come from.
func asUnavailable(err error) error {
	return fault.Wrap(fault.Unavailable, err, "The remote does not send the blob.")
}

// watch cancels the transfer when the remote is removed, or changed in a setting that decides which bytes it sends.
// It polls the database, because another process may have changed the remote.
func (t *transfer) watch() {
	tick := time.NewTicker(t.scheduler().limits.Watch)
	defer tick.Stop()
	for {
		select {
		case <-t.ctx.Done():
			return
		case <-tick.C:
		}
		now, err := t.Store.Catalog.Remote(t.ctx, t.remote.ID)
		if fault.Is(err, fault.NotFound) || err == nil && !now.SameSource(t.remote) {
			t.cancel(errChanged)
			return
		}
	}
}

// run reads the blob to its end and passes it on to the follower. It stores the blob unless the policy is streamed.
func (t *transfer) run(to *follower) error {
	defer func() { _ = t.body.Close() }()
	err := t.failed(t.store(io.TeeReader(t, to)))
	if t.broken {
		t.blame(err)
	}
	return err
}

// store reads the blob and stores it, unless the policy is streamed or the server has the blob already. It records
// that the remote has the blob.
func (t *transfer) store(from io.Reader) error {
	known, err := t.Store.Serving.Blob(t.ctx, t.blob.Digest)
	if err != nil {
		return err
	}
	if !t.kept() || !known.Absent {
		if _, err := io.Copy(io.Discard, from); err != nil || !t.kept() {
			return err
		}
		return t.record(known)
	}
	got, err := t.Blobs.Receive(t.ctx, t.repo.Name, t.blob.Digest, from)
	if errors.Is(err, storage.ErrDigest) {
		t.broken = true
		return fault.New(fault.Unavailable, "The remote's bytes are not those of %s.", t.blob.Digest)
	} else if err != nil {
		return err
	}
	got.AbsentSince = known.Updated // the bytes were stored after that
	return t.record(got)
}

// record records that the remote has a blob whose bytes are stored.
func (t *transfer) record(b pulp.Blob) error {
	return t.Blobs.Record(t.ctx, b, func(ctx context.Context, b pulp.Blob) error {
		return t.Store.Content.FilledBlob(ctx, t.repo.ID, t.remote.ID, b)
	}, nil)
}

// end releases the transfer and logs its failure.
func (t *transfer) end(err error) {
	if t.registry != nil {
		t.registry.Close()
	}
	if err != nil && !errors.Is(err, errGone) && !errors.Is(err, context.Canceled) {
		t.Log.WarnContext(t.ctx, "blob not fetched",
			slog.String("digest", string(t.blob.Digest)), slog.String("remote", t.remote.Name), slog.Any("err", err))
	}
	t.meter.Stop()
	t.cancel(nil)
	t.stop()
}
