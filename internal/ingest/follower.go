package ingest

import (
	"context"
	"errors"
	"io"
	"time"
)

// follower passes bytes on to the request that caused a fetch. It holds the last ones back until all are verified. A request that takes the bytes too slowly is left behind:
// all requests that wait for the blob wait for this one.
type follower struct {
	pipe   *io.PipeWriter
	idle   time.Duration // how long the request may delay the fetch, in all; of a blob that is not kept, by each piece
	needed bool          // without a follower there is no use in reading on
	held   []byte
	spent  time.Duration // how long the request has delayed the fetch
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
	began := time.Now()
	slow := time.AfterFunc(max(0, f.idle-f.spent), func() { _ = f.pipe.CloseWithError(errSlow) })
	defer slow.Stop()
	if _, err := f.pipe.Write(p); err != nil {
		f.gone = true
	}
	if !f.needed {
		f.spent += time.Since(began)
	}
}

// end passes the last bytes on, or the error in their place.
func (f *follower) end(err error) {
	if err == nil {
		f.pass(f.held)
	}
	_ = f.pipe.CloseWithError(err)
}

// reader returns the bytes of a fetch to the request that caused it. When that request was left behind, the rest comes from the storage after the fetch has ended.
type reader struct {
	*io.PipeReader
	ctx  context.Context                                  //nolint:containedctx // it is the request's
	kept func(context.Context) (io.ReadSeekCloser, error) // waits for the end of the fetch and opens the blob; nil: it is not kept
	at   int64
	rest io.ReadSeekCloser // nil until the request was left behind
}

// Read implements io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	if r.rest == nil {
		n, err := r.PipeReader.Read(p)
		if r.at += int64(n); r.kept == nil || !errors.Is(err, errSlow) {
			return n, err
		}
		rest, err := r.kept(r.ctx)
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
