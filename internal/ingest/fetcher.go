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
	"github.com/countersign/countersign/internal/store"
)

// BlobFetcher fetches absent blobs when a client requests them: a sync with the policy on_demand or streamed has left
// their bytes at the remote. Requests for the same blob share one fetch. It is safe for concurrent use.
type BlobFetcher struct {
	Store  *store.Store
	Blobs  Blobs
	Mirror *mirror.Network
	Log    *slog.Logger
	// Idle is the maximum time by which the request that caused a fetch may delay it, in all, because it reads the
	// bytes more slowly than they arrive. After that the fetch continues, and the request gets the rest when the blob
	// is stored. If the blob is not stored, Idle is the time for each piece, and the fetch ends after it.
	Idle time.Duration
	// Limits bound the fetches and the requests that wait. They are read at the first fetch.
	Limits Limits

	once      sync.Once
	scheduled *scheduler
}

// Errors of Fetch.
var (
	// ErrNoSource says that no remote has an absent blob any more.
	ErrNoSource = fault.New(fault.NotFound,
		"The blob was never fetched, and no remote has it any more; sync the repository again, or push the blob.")
	// ErrLacks says that the remote that was asked does not have the blob; another one may have it.
	ErrLacks   = fault.New(fault.NotFound, "The remote that had the blob has it no more.")
	errChanged = fault.New(fault.Unavailable, "The remote was removed or changed while the blob was being fetched.")
)

// Fetched is the result of Fetch.
type Fetched struct {
	io.ReadCloser      // the bytes as they arrive; nil for a request that waited for another one's fetch
	Kept          bool // the repository has the blob afterwards; otherwise each request fetches it
}

// Fetch fetches an absent blob of a repository from the remote b.RemoteID only. client is the name under which the
// request counts: one client, one remote and one host have a share of the fetches each, and a request without a place
// waits for one. It returns a TooMany error if no place becomes free in time.
//
// The first request gets a reader. The reader ends with an error unless the bytes match the digest; closing it early
// does not end the fetch of a blob that is stored. A request that arrives during the fetch waits for its end and gets
// no reader: the caller looks for the blob again.
//
// A fetch ends early if its remote is removed or changed, sends too slowly, or takes longer than Limits.Total. After
// an error the caller looks for the blob again: the repository may name another remote then. The error is ErrNoSource
// if there is no remote, and ErrLacks if the remote does not have the blob.
func (f *BlobFetcher) Fetch(ctx context.Context, client string, repo pulp.Repository, b pulp.Blob) (Fetched, error) {
	remote, err := f.remote(ctx, b)
	if err != nil {
		return Fetched{}, err
	}
	kept := remote.Policy != pulp.Streamed
	request := fetchRequest{
		key: fetchKey{b.Digest, repo.ID, remote.ID}, client: client, remote: remote.ID, host: hostOf(remote), exclusive: !kept,
	}
	s := f.scheduler()
	p, err := s.acquire(ctx, request)
	if err != nil {
		return Fetched{}, err
	}
	if !p.own {
		return Fetched{Kept: true}, s.join(ctx, p.fetch, request)
	}
	now, err := f.Store.Serving.RepositoryBlob(ctx, repo.ID, b.ID)
	if err != nil || !now.Absent || now.RemoteID != b.RemoteID { // it changed while the request waited
		s.finish(p.fetch, nil)
		s.release(p.fetch)
		return Fetched{Kept: true}, err
	}
	t := f.transfer(ctx, repo, b, remote)
	if err := t.open(); err != nil {
		t.blame(err)
		t.end(err)
		s.finish(p.fetch, forOthers(err))
		s.release(p.fetch)
		return Fetched{}, err
	}
	return Fetched{f.begin(ctx, t, p.fetch), kept}, nil
}

// begin runs a transfer in the background and returns the reader for the request that caused it.
func (f *BlobFetcher) begin(ctx context.Context, t *transfer, own *fetch) io.ReadCloser {
	s := f.scheduler()
	pipe, writer := io.Pipe()
	body := &reader{PipeReader: pipe, ctx: ctx}
	if t.kept() {
		body.stored = func(ctx context.Context) (io.ReadSeekCloser, error) { return f.stored(ctx, own) }
	}
	to := &follower{pipe: writer, idle: f.Idle, required: !t.kept()}
	context.AfterFunc(t.ctx, func() { _ = writer.CloseWithError(context.Cause(t.ctx)) })
	go func() {
		defer s.release(own)
		err := t.run(to)
		s.finish(own, forOthers(err)) // before the first request reads the end, and perhaps requests the blob again
		to.end(err)
		t.end(err)
	}()
	return body
}

// stored waits for the end of a fetch and opens the blob that it has stored.
func (f *BlobFetcher) stored(ctx context.Context, own *fetch) (io.ReadSeekCloser, error) {
	select {
	case <-own.ended:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if own.err != nil {
		return nil, own.err
	}
	b, err := f.Store.Serving.Blob(ctx, own.key.digest)
	switch {
	case err != nil:
		return nil, err
	case b.Absent:
		return nil, errChanged
	}
	return f.Blobs.Open(ctx, b)
}

// scheduler returns the scheduler, which the first call creates.
func (f *BlobFetcher) scheduler() *scheduler {
	f.once.Do(func() { f.scheduled = newScheduler(f.Limits) })
	return f.scheduled
}

// remote returns the remote from which a blob is fetched.
func (f *BlobFetcher) remote(ctx context.Context, b pulp.Blob) (pulp.Remote, error) {
	if b.RemoteID == "" {
		return pulp.Remote{}, ErrNoSource
	}
	remote, err := f.Store.Catalog.Remote(ctx, b.RemoteID)
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

// forOthers returns the error of a fetch for the requests that waited for it, or nil if they should look for the blob
// again.
func forOthers(err error) error {
	if errors.Is(err, errChanged) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
