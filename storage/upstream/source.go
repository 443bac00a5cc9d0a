package upstream

import (
	"errors"
	"hash"
	"io"
	"sync"

	"github.com/countersign/countersign/storage"
)

// source is a body on its way to the upstream. It counts and hashes what is read through it and remembers how reading ended.
//
// net/http goes on reading a body when the upstream answers, or hangs up, before it has all of it; end puts a stop to that.
type source struct {
	mu     sync.Mutex
	r      io.Reader
	hash   hash.Hash // may be nil
	length int64     // of the input; -1: not known
	n      int64
	whole  bool  // the input has been read to its end
	err    error // the input's own failure
	ended  bool
}

func newSource(r io.Reader, h hash.Hash) *source {
	s := &source{r: r, hash: h, length: -1}
	switch r := r.(type) {
	case storage.Counted:
		s.length = r.Left()
	case interface{ Len() int }: // a buffer, or a reader of one
		s.length = int64(r.Len())
	}
	return s
}

var errEnded = errors.New("the request is over")

// Read implements io.Reader.
func (s *source) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return 0, errEnded
	}
	n, err := s.r.Read(p)
	s.n += int64(n)
	if s.hash != nil {
		s.hash.Write(p[:n])
	}
	switch {
	case err == io.EOF: // bare: a wrapped one is no end
		s.whole = true
	case err != nil:
		s.err = err
	}
	return n, err
}

// WriteTo implements io.WriterTo: bodies of an unknown length go this way.
func (s *source) WriteTo(w io.Writer) (int64, error) { return storage.Move(w, s) }

// end waits for a Read that is under way and lets no other through to the input. It returns how many bytes were read, whether
// these are all, and why the input failed, if it did.
func (s *source) end() (n int64, whole bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	return s.n, s.whole || s.n == s.length, s.err
}
