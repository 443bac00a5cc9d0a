package intake

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/mirror"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/storage"
)

// Filler fetches blobs that a sync has left to come later, when somebody asks for one (contract 2.6, policies on_demand and streamed). It is safe for
// concurrent use: a blob is fetched once at a time, whoever asks.
type Filler struct {
	Store  *store.Store
	Blobs  Blobs
	Mirror *mirror.Network
	Log    *slog.Logger
	// Idle is how long who asked first may take no bytes before the blob is fetched without them.
	Idle time.Duration

	mu      sync.Mutex
	flights map[digest.Digest]chan struct{}
}

// ErrNoSource says that no remote has an absent blob any more.
var ErrNoSource = fault.New(fault.Unavailable, "The blob was never fetched, and the remote that had it is gone; sync the repository again.")

// Fetch fetches an absent blob under a repository's name. Who asks first gets a reader of its bytes, as they come; it ends with an error unless they were the
// digest's, and closing it early does not stop the fetching. Who asks meanwhile waits and gets no reader: the blob is there then, or was streamed and is to be asked for again.
func (f *Filler) Fetch(ctx context.Context, name string, b pulp.Blob) (io.ReadCloser, error) {
	f.mu.Lock()
	flight, busy := f.flights[b.Digest]
	if !busy {
		if f.flights == nil {
			f.flights = map[digest.Digest]chan struct{}{}
		}
		flight = make(chan struct{})
		f.flights[b.Digest] = flight
	}
	f.mu.Unlock()
	if busy {
		select {
		case <-flight:
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	land := sync.OnceFunc(func() {
		f.mu.Lock()
		delete(f.flights, b.Digest)
		f.mu.Unlock()
		close(flight)
	})
	working := context.WithoutCancel(ctx)
	from, keep, err := f.open(working, b)
	if err != nil {
		land()
		return nil, err
	}
	if !keep { // there is nothing to wait for
		land()
	}
	reader, writer := io.Pipe()
	to := &follower{pipe: writer, idle: f.Idle}
	go func() {
		defer land()
		err := f.fetch(working, name, b, io.TeeReader(from, to), keep)
		from.close()
		if err != nil {
			f.Log.WarnContext(working, "blob not fetched", slog.String("digest", string(b.Digest)), slog.Any("err", err))
		}
		to.end(err)
	}()
	return reader, nil
}

// source is a blob on its way from a remote.
type source struct {
	io.Reader
	close func()
}

// open asks the remotes that have a blob, one after the other, and says whether its bytes are to be kept.
func (f *Filler) open(ctx context.Context, b pulp.Blob) (*source, bool, error) {
	remotes, err := f.Store.BlobSources(ctx, b.ID)
	if err != nil {
		return nil, false, err
	}
	err = ErrNoSource
	for _, r := range remotes {
		registry, openErr := f.Mirror.Open(r)
		if openErr != nil {
			err = openErr
			continue
		}
		body, openErr := registry.Blob(ctx, b.Digest, b.Size)
		if openErr != nil {
			registry.Close()
			err = openErr
			continue
		}
		return &source{body, func() { _ = body.Close(); registry.Close() }}, r.Policy != pulp.Streamed, nil
	}
	return nil, false, asUnavailable(err)
}

// asUnavailable makes a remote's no one that does not sound like this registry's own.
func asUnavailable(err error) error {
	if fault.Is(err, fault.Unavailable) {
		return err
	}
	return fault.Wrap(fault.Unavailable, err, "The remote that has the blob does not give it.")
}

func (f *Filler) fetch(ctx context.Context, name string, b pulp.Blob, from io.Reader, keep bool) error {
	if !keep {
		_, err := io.Copy(io.Discard, from)
		return err
	}
	got, err := f.Blobs.Receive(ctx, name, b.Digest, from)
	if errors.Is(err, storage.ErrDigest) {
		return fault.New(fault.Unavailable, "The remote's bytes are not those of %s.", b.Digest)
	} else if err != nil {
		return err
	}
	return f.Blobs.Record(ctx, got, func(ctx context.Context) error { return f.Store.FilledBlob(ctx, got) }, nil)
}

// follower hands bytes on to who asked, for as long as they take them, and holds the last ones back until all are known to be right.
type follower struct {
	pipe *io.PipeWriter
	idle time.Duration
	held []byte
	gone bool
}

// Write implements io.Writer. It never fails: what the follower does not take is not their fault who fetch.
func (f *follower) Write(p []byte) (int, error) {
	f.pass(f.held)
	now := max(0, len(p)-heldBack)
	f.pass(p[:now])
	f.held = append(f.held[:0], p[now:]...)
	return len(p), nil
}

// heldBack is how many of the last bytes wait for the others to be right.
const heldBack = 1024

var errSlow = errors.New("the bytes were not taken in time")

func (f *follower) pass(p []byte) {
	if f.gone || len(p) == 0 {
		return
	}
	slow := time.AfterFunc(f.idle, func() { _ = f.pipe.CloseWithError(errSlow) })
	defer slow.Stop()
	if _, err := f.pipe.Write(p); err != nil {
		f.gone = true
	}
}

// end passes the last bytes on, or the error in their place.
func (f *follower) end(err error) {
	if err == nil {
		f.pass(f.held)
	}
	_ = f.pipe.CloseWithError(err)
}
