package ingest

import (
	"context"
	"errors"
	"io"
	"time"
)

// follower passes the bytes of a fetch on to the request that caused it. It holds the last bytes back until all are
// verified. It drops a request that reads too slowly, because all requests that wait for the blob wait for this one.
type follower struct {
	pipe *io.PipeWriter
	// idle is the time by which the request may delay the fetch: in all, or, if it is required, for each piece.
	idle     time.Duration
	required bool // the fetch ends without the follower
	held     []byte
	spent    time.Duration // by which the request has delayed the fetch
	gone     bool
}

var errGone = errors.New("the client does not read the blob any more")

// Write implements io.Writer. It returns errGone if the follower is required and its request is gone.
func (f *follower) Write(p []byte) (int, error) {
	f.pass(f.held)
	now := max(0, len(p)-heldBack)
	f.pass(p[:now])
	f.held = append(f.held[:0], p[now:]...)
	if f.gone && f.required {
		return 0, errGone
	}
	return len(p), nil
}

// heldBack is the number of bytes that are held back until the others are verified.
const heldBack = 1024

var errSlow = errors.New("the client reads the blob too slowly")

func (f *follower) pass(p []byte) {
	if f.gone || len(p) == 0 {
		return
	}
	began := time.Now()
	slow := time.AfterFunc(max(0, f.idle-f.spent), func() { _ = f.pipe.CloseWithError(errSlow) })
	defer slow.Stop()
	if _, err := f.pipe.Write(p); err != nil {
		f.gone = true
	}
	if !f.required {
		f.spent += time.Since(began)
	}
}

// end passes the last bytes on, or the error instead of them.
func (f *follower) end(err error) {
	if err == nil {
		f.pass(f.held)
	}
	_ = f.pipe.CloseWithError(err)
}

// reader returns the bytes of a fetch to the request that caused it. If the follower has dropped the request, the
// rest comes from the storage after the fetch has ended.
type reader struct {
	*io.PipeReader
	ctx context.Context //nolint:containedctx // the context of the request
	// stored waits for the end of the fetch and opens the blob; nil if the blob is not stored.
	stored func(context.Context) (io.ReadSeekCloser, error)
	at     int64
	rest   io.ReadSeekCloser // nil until the request was dropped
}

// Read implements io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	if r.rest == nil {
		n, err := r.PipeReader.Read(p)
		if r.at += int64(n); r.stored == nil || !errors.Is(err, errSlow) {
			return n, err
		}
		rest, err := r.stored(r.ctx)
		if err != nil {
			return n, err
		}
		r.rest = rest
		if _, err := rest.Seek(r.at, io.SeekStart); err != nil {
			return n, err
		}
	}
	return r.rest.Read(p)
}

// Close implements io.Closer.
func (r *reader) Close() error {
	err := r.PipeReader.Close()
	if r.rest != nil {
		err = errors.Join(err, r.rest.Close())
	}
	return err
}
