package upstream

import (
	"errors"
	"hash"
	"io"
	"sync"

	"github.com/countersign/countersign/storage"
)

// source is the body of a request to the upstream. It counts and hashes the bytes that are read, and records the
// error of the input.
//
// net/http continues to read a body after the upstream has answered or closed the connection early; end stops that.
type source struct {
	mu     sync.Mutex
	r      io.Reader
	hash   hash.Hash // may be nil
	length int64     // of the input; -1 if it is not known
	n      int64
	whole  bool  // the end of the input has been read
	err    error // of the input
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
	case err == io.EOF: // a wrapped EOF is an error
		s.whole = true
	case err != nil:
		s.err = err
	}
	return n, err
}

// WriteTo implements io.WriterTo. net/http calls it for bodies of unknown length.
func (s *source) WriteTo(w io.Writer) (int64, error) { return storage.Move(w, s) }

// end waits for a running Read and makes later ones fail. It returns the number of bytes read, whether these are all
// bytes of the input, and the error of the input.
func (s *source) end() (n int64, whole bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	return s.n, s.whole || s.n == s.length, s.err
}
