package reply

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
)

// streamBuffer is the number of bytes of a streamed response that are held back. A shorter response has a
// Content-Length, and a status of its own when it fails.
const streamBuffer = 1 << 20

// WriteStream sends a response that has a Stream. It returns the error of Stream, and whether part of the response
// has been sent by then: if not, the caller can still send another response.
func WriteStream(w http.ResponseWriter, r Reply) (begun bool, err error) {
	s := &stream{to: w, status: r.Status}
	if err := r.Stream(s); err != nil {
		return s.begun, err
	}
	s.end()
	return true, nil
}

// stream writes a response that it holds back up to streamBuffer. Its errors are those of the client's connection.
type stream struct {
	to     http.ResponseWriter
	status int
	kept   bytes.Buffer
	begun  bool // the header has been sent
}

var _ io.Writer = (*stream)(nil)

// Write implements io.Writer.
func (s *stream) Write(p []byte) (int, error) {
	n, err := s.kept.Write(p)
	if s.kept.Len() > streamBuffer {
		err = s.flush()
	}
	return n, err
}

func (s *stream) flush() error {
	if !s.begun {
		s.begun = true
		s.to.Header().Set("Content-Type", contentType)
		s.to.WriteHeader(s.status)
	}
	_, err := s.kept.WriteTo(s.to)
	return err
}

// end sends the rest. A client that has gone needs none, so the error is ignored.
func (s *stream) end() {
	if !s.begun {
		s.to.Header().Set("Content-Length", strconv.Itoa(s.kept.Len()))
	}
	_ = s.flush()
}
