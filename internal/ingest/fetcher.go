package ingest

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/url"
	"sync"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/mirror"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/registryclient"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/storage"
)

// BlobFetcher fetches absent blobs, which a sync with the policy on_demand or streamed has left at the remote, when a client asks for one. Requests for the same blob share one fetch.
// It is safe for concurrent use.
type BlobFetcher struct {
	Store  *store.Store
	Blobs  Blobs
	Mirror *mirror.Network
	Log    *slog.Logger
	// Idle is how long the request that caused a fetch may delay it, in all, by taking the bytes more slowly than they come. Then the fetch goes on, and the request gets the
	// rest when the blob is kept. Of a blob that is not kept, the request may delay each piece so long, and is ended otherwise.
	Idle time.Duration
	// Limits bound the fetches and the requests that wait; read once, at the first fetch.
	Limits Limits

	once    sync.Once
	flights *flights
}

// Errors of a fetch that the proxy answers.
var (
	// ErrNoSource says that no remote has an absent blob any more.
	ErrNoSource = fault.New(fault.NotFound, "The blob was never fetched, and no remote has it any more; sync the repository again, or push the blob.")
	// ErrLacks says that the remote which was asked has no such blob; another one may have it.
	ErrLacks   = fault.New(fault.NotFound, "The remote that had the blob has it no more.")
	errChanged = fault.New(fault.Unavailable, "The remote was removed or changed while the blob was being fetched.")
)

// Fetched is the result of Fetch.
type Fetched struct {
	io.ReadCloser      // the bytes as they arrive; nil for a request that waited for another one's fetch
	Kept          bool // the repository has the blob afterwards; otherwise each request fetches it
}

// Fetch fetches a blob that a repository has claimed, from the remote b.RemoteID, of which the repository claims it, and from no other. client names the caller for its share of the fetches: at most so many run at
// a time for one client, one remote and one host, and a request without a place waits for one. TooMany when none becomes free in time.
//
// The first request gets a reader. It ends with an error unless the bytes match the digest; closing it early does not stop the fetch of a blob that is kept. A request
// that comes meanwhile waits for the end and gets no reader: its caller looks for the blob again.
//
// A fetch ends early when its remote is removed or changed, sends too slowly, or takes longer than Limits.Total. When a remote does not give the blob, the caller looks for it again: the
// repository may name another remote then. ErrNoSource and ErrLacks when there was none, or it has no such blob.
func (f *BlobFetcher) Fetch(ctx context.Context, client string, repo pulp.Repository, b pulp.Blob) (Fetched, error) {
	remote, err := f.remote(ctx, b)
	if err != nil {
		return Fetched{}, err
	}
	keep := remote.Policy != pulp.Streamed
	p := passenger{key: flightKey{b.Digest, repo.ID, remote.ID}, client: client, remote: remote.ID, host: hostOf(remote), alone: !keep}
	flights := f.board()
	s, err := flights.board(ctx, p)
	if err != nil {
		return Fetched{}, err
	}
	if !s.own {
		return Fetched{Kept: true}, flights.join(ctx, s.flight, p)
	}
	now, err := f.Store.RepositoryBlob(ctx, repo.ID, b.ID)
	if err != nil || !now.Absent || now.RemoteID != b.RemoteID { // while the request waited
		flights.land(s.flight, nil)
		flights.leave(s.flight)
		return Fetched{Kept: true}, err
	}
	t := f.transfer(ctx, repo, b, remote)
	if err := t.open(); err != nil {
		t.blame(err)
		t.end(err)
		flights.land(s.flight, forOthers(err))
		flights.leave(s.flight)
		return Fetched{}, err
	}
	pipe, writer := io.Pipe()
	body := &reader{PipeReader: pipe, ctx: ctx}
	if keep {
		body.kept = func(ctx context.Context) (io.ReadSeekCloser, error) { return f.kept(ctx, s.flight) }
	}
	to := &follower{pipe: writer, idle: f.Idle, needed: !keep}
	context.AfterFunc(t.ctx, func() { _ = writer.CloseWithError(context.Cause(t.ctx)) })
	go func() {
		defer flights.leave(s.flight)
		err := t.run(to)
		flights.land(s.flight, forOthers(err)) // before the first request sees the end, and perhaps asks again
		to.end(err)
		t.end(err)
	}()
	return Fetched{body, keep}, nil
}

// kept waits for the end of a flight and opens the blob that it has brought.
func (f *BlobFetcher) kept(ctx context.Context, fl *flight) (io.ReadSeekCloser, error) {
	select {
	case <-fl.ended:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if fl.err != nil {
		return nil, fl.err
	}
	b, err := f.Store.Blob(ctx, fl.key.digest)
	switch {
	case err != nil:
		return nil, err
	case b.Absent:
		return nil, errChanged
	}
	return f.Blobs.Open(ctx, b)
}

// board returns the flights, made by the first call.
func (f *BlobFetcher) board() *flights {
	f.once.Do(func() { f.flights = newFlights(f.Limits) })
	return f.flights
}

// remote returns the remote that a blob is claimed of.
func (f *BlobFetcher) remote(ctx context.Context, b pulp.Blob) (pulp.Remote, error) {
	if b.RemoteID == "" {
		return pulp.Remote{}, ErrNoSource
	}
	remote, err := f.Store.Remote(ctx, b.RemoteID)
	if fault.Is(err, fault.NotFound) {
		return remote, ErrNoSource
	}
	return remote, err
}

func hostOf(r pulp.Remote) string {
	u, err := url.Parse(r.URL)
	if err != nil {
		return r.URL
	}
	return u.Host
}

// forOthers returns the error of a flight for the requests that waited for it; nil when they should look again.
func forOthers(err error) error {
	if errors.Is(err, errChanged) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// transfer is a blob on its way from a remote.
type transfer struct {
	*BlobFetcher
	ctx      context.Context //nolint:containedctx // it is the transfer's: canceled when the transfer must end
	cancel   context.CancelCauseFunc
	stop     func() // releases the timer of ctx
	meter    *registryclient.Meter
	repo     pulp.Repository
	blob     pulp.Blob
	remote   pulp.Remote
	registry *mirror.Registry
	body     io.ReadCloser
	broken   bool // the remote did not give all of the blob
}

// transfer prepares a transfer. One of a blob that is kept outlives the request that causes it.
func (f *BlobFetcher) transfer(ctx context.Context, repo pulp.Repository, b pulp.Blob, remote pulp.Remote) *transfer {
	if remote.Policy != pulp.Streamed {
		ctx = context.WithoutCancel(ctx)
	}
	total := f.board().limits.Total
	ctx, stop := context.WithTimeoutCause(ctx, total, fault.New(fault.Unavailable, "The blob took longer than %v.", total))
	ctx, cancel := context.WithCancelCause(ctx)
	ctx, meter := f.Mirror.Pace.Start(ctx)
	return &transfer{BlobFetcher: f, ctx: ctx, cancel: cancel, stop: stop, meter: meter, repo: repo, blob: b, remote: remote}
}

// open asks the remote for the blob. It waits no longer than for any other piece of it.
func (t *transfer) open() (err error) {
	go t.watch()
	limit := t.meter.Window()
	slow := time.AfterFunc(limit, func() { t.cancel(fault.New(fault.Unavailable, "The remote has not answered for %v.", limit)) })
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

// blame records that the remote did not give the blob, so that another one is asked next. An end that is not the remote's fault is not recorded.
func (t *transfer) blame(err error) {
	if errors.Is(err, errChanged) || errors.Is(err, context.Canceled) {
		return
	}
	ctx := context.WithoutCancel(t.ctx)
	if err := t.Store.SourceFailed(ctx, t.repo.ID, t.blob.ID, t.remote.ID, errors.Is(err, ErrLacks)); err != nil {
		t.Log.WarnContext(ctx, "the failure of a remote is not recorded", slog.String("digest", string(t.blob.Digest)), slog.String("remote", t.remote.Name), slog.Any("err", err))
	}
}

// failed returns the reason why a transfer failed: if its context has ended, the cause of that.
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

// Read implements io.Reader for the remote's bytes.
func (t *transfer) Read(p []byte) (int, error) {
	n, err := t.meter.Read(t.body, p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = asUnavailable(err)
		t.broken = true
	}
	return n, err
}

// asUnavailable wraps an error of a remote so that it does not read like this registry's own.
// The remote's words are for the log only: clients need not know where the bytes come from.
func asUnavailable(err error) error {
	return fault.Wrap(fault.Unavailable, err, "The remote that has the blob does not give it.")
}

// watch cancels the transfer when the remote is removed, or changed in anything that decides which bytes come. Another process may have done that, so it asks the database.
func (t *transfer) watch() {
	tick := time.NewTicker(t.board().limits.Watch)
	defer tick.Stop()
	for {
		select {
		case <-t.ctx.Done():
			return
		case <-tick.C:
		}
		now, err := t.Store.Remote(t.ctx, t.remote.ID)
		if fault.Is(err, fault.NotFound) || err == nil && !now.SameSource(t.remote) {
			t.cancel(errChanged)
			return
		}
	}
}

// run reads the blob to its end and passes it on. It keeps the blob where it is to be kept and the server does not have it yet, and records that the remote has shown it.
func (t *transfer) run(to *follower) error {
	defer func() { _ = t.body.Close() }()
	err := t.failed(t.keep(io.TeeReader(t, to)))
	if t.broken {
		t.blame(err)
	}
	return err
}

func (t *transfer) keep(from io.Reader) error {
	known, err := t.Store.Blob(t.ctx, t.blob.Digest)
	if err != nil {
		return err
	}
	keep := t.remote.Policy != pulp.Streamed
	if !keep || !known.Absent {
		if _, err := io.Copy(io.Discard, from); err != nil || !keep {
			return err
		}
		return t.Store.FilledBlob(t.ctx, t.repo.ID, t.remote.ID, known)
	}
	got, err := t.Blobs.Receive(t.ctx, t.repo.Name, t.blob.Digest, from)
	if errors.Is(err, storage.ErrDigest) {
		t.broken = true
		return fault.New(fault.Unavailable, "The remote's bytes are not those of %s.", t.blob.Digest)
	} else if err != nil {
		return err
	}
	return t.Blobs.Record(t.ctx, got, func(ctx context.Context) error { return t.Store.FilledBlob(ctx, t.repo.ID, t.remote.ID, got) }, nil)
}

// end releases everything that the transfer holds, and logs its failure.
func (t *transfer) end(err error) {
	if t.registry != nil {
		t.registry.Close()
	}
	if err != nil && !errors.Is(err, errGone) && !errors.Is(err, context.Canceled) {
		t.Log.WarnContext(t.ctx, "blob not fetched", slog.String("digest", string(t.blob.Digest)), slog.String("remote", t.remote.Name), slog.Any("err", err))
	}
	t.meter.Stop()
	t.cancel(nil)
	t.stop()
}
