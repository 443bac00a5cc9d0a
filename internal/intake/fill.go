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
// concurrent use: a blob is fetched from a remote once at a time, whoever asks.
type Filler struct {
	Store  *store.Store
	Blobs  Blobs
	Mirror *mirror.Network
	Log    *slog.Logger
	// Idle is how long who asked first may take no bytes before the blob is fetched without them.
	Idle time.Duration

	mu      sync.Mutex
	flights map[flight]chan struct{}
	busy    int
}

// flight is a blob on its way from a remote.
type flight struct {
	digest digest.Digest
	remote string
}

// maxFlights is how many blobs are fetched at a time.
const maxFlights = 64

var (
	// ErrNoSource says that no remote has an absent blob any more.
	ErrNoSource = fault.New(fault.Unavailable, "The blob was never fetched, and the remote that had it is gone; sync the repository again.")
	errBusy     = fault.New(fault.TooMany, "Too many blobs are being fetched from remotes; ask again.")
)

// Fetched is what comes of asking for an absent blob.
type Fetched struct {
	io.ReadCloser      // its bytes as they come; nil for who waited while somebody else had it fetched
	Kept          bool // the repository has it afterwards; else it is to be fetched whenever it is asked for
}

// Fetch fetches a blob that a repository has claimed, from the remote that it claims it of and from no other. Who asks first gets a reader; it ends with
// an error unless the bytes were the digest's, and closing it early does not stop the fetching of a blob that is kept. Who asks meanwhile waits and gets
// none. When the reader ends, a blob that is kept is there, and who asks after one that failed is first again.
func (f *Filler) Fetch(ctx context.Context, repo pulp.Repository, b pulp.Blob) (Fetched, error) {
	key := flight{b.Digest, repo.ID + b.RemoteID}
	f.mu.Lock()
	ended, busy := f.flights[key]
	if !busy && f.busy >= maxFlights {
		f.mu.Unlock()
		return Fetched{}, errBusy
	}
	if !busy {
		if f.flights == nil {
			f.flights = map[flight]chan struct{}{}
		}
		ended = make(chan struct{})
		f.flights[key] = ended
		f.busy++
	}
	f.mu.Unlock()
	if busy {
		select {
		case <-ended:
			return Fetched{Kept: true}, nil
		case <-ctx.Done():
			return Fetched{}, ctx.Err()
		}
	}
	land := sync.OnceFunc(func() { // who waits looks again
		f.mu.Lock()
		delete(f.flights, key)
		f.mu.Unlock()
		close(ended)
	})
	done := func() {
		land()
		f.mu.Lock()
		f.busy--
		f.mu.Unlock()
	}
	working := context.WithoutCancel(ctx)
	from, remote, err := f.open(working, b)
	if err != nil {
		done()
		return Fetched{}, err
	}
	keep := remote.Policy != pulp.Streamed
	if !keep { // there is nothing to wait for
		land()
	}
	reader, writer := io.Pipe()
	to := &follower{pipe: writer, idle: f.Idle, needed: !keep}
	go func() {
		defer done()
		err := f.fetch(working, repo, b, io.TeeReader(from, to), keep)
		from.close()
		land() // before who asked first has the end, and may ask again
		if err != nil && !errors.Is(err, errGone) {
			f.Log.WarnContext(working, "blob not fetched", slog.String("digest", string(b.Digest)), slog.String("remote", remote.Name), slog.Any("err", err))
		}
		to.end(err)
	}()
	return Fetched{reader, keep}, nil
}

// source is a blob on its way from a remote.
type source struct {
	io.Reader
	close func()
}

// open asks the remote that a blob is claimed of.
func (f *Filler) open(ctx context.Context, b pulp.Blob) (*source, pulp.Remote, error) {
	if b.RemoteID == "" {
		return nil, pulp.Remote{}, ErrNoSource
	}
	remote, err := f.Store.Remote(ctx, b.RemoteID)
	if fault.Is(err, fault.NotFound) {
		return nil, remote, ErrNoSource
	} else if err != nil {
		return nil, remote, err
	}
	registry, err := f.Mirror.Open(remote)
	if err != nil {
		return nil, remote, asUnavailable(err)
	}
	body, err := registry.Blob(ctx, b.Digest, b.Size)
	if err != nil {
		registry.Close()
		return nil, remote, asUnavailable(err)
	}
	return &source{body, func() { _ = body.Close(); registry.Close() }}, remote, nil
}

// asUnavailable makes a remote's no one that does not sound like this registry's own.
// What the remote said is for the log: who pulls need not know where the bytes come from.
func asUnavailable(err error) error {
	return fault.Wrap(fault.Unavailable, err, "The remote that has the blob does not give it.")
}

// fetch reads a blob to its end, keeps it where it is to be kept and nobody has it yet, and notes that the remote has shown it.
func (f *Filler) fetch(ctx context.Context, repo pulp.Repository, b pulp.Blob, from io.Reader, keep bool) error {
	known, err := f.Store.Blob(ctx, b.Digest)
	if err != nil {
		return err
	}
	if !keep || !known.Absent {
		if _, err := io.Copy(io.Discard, from); err != nil || !keep {
			return err
		}
		return f.Store.FilledBlob(ctx, repo.ID, b.RemoteID, known)
	}
	got, err := f.Blobs.Receive(ctx, repo.Name, b.Digest, from)
	if errors.Is(err, storage.ErrDigest) {
		return fault.New(fault.Unavailable, "The remote's bytes are not those of %s.", b.Digest)
	} else if err != nil {
		return err
	}
	return f.Blobs.Record(ctx, got, func(ctx context.Context) error { return f.Store.FilledBlob(ctx, repo.ID, b.RemoteID, got) }, nil)
}

// follower hands bytes on to who asked, for as long as they take them, and holds the last ones back until all are known to be right.
type follower struct {
	pipe   *io.PipeWriter
	idle   time.Duration
	needed bool // without a follower there is no use in reading on
	held   []byte
	gone   bool
}

var errGone = errors.New("nobody takes the bytes")

// Write implements io.Writer. It fails only when the follower is needed and gone.
func (f *follower) Write(p []byte) (int, error) {
	f.pass(f.held)
	now := max(0, len(p)-heldBack)
	f.pass(p[:now])
	f.held = append(f.held[:0], p[now:]...)
	if f.gone && f.needed {
		return 0, errGone
	}
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
