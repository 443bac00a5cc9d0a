package intake

import (
	"errors"
	"io"
	"time"
)

// follower passes bytes on to the request that caused a fetch, for as long as it takes them. It holds the last ones back until all are verified.
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
