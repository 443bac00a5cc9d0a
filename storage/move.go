package storage

import (
	"io"
	"sync"
)

// pieces is how many bytes are on their way at a time: each piece costs two system calls.
const pieces = 256 << 10

var pool = sync.Pool{New: func() any { return new([pieces]byte) }}

// Move copies in large pieces, whatever else the two can do: from one socket to another, or with a hash between them, neither knows a better way.
func Move(to io.Writer, from io.Reader) (int64, error) {
	buffer, _ := pool.Get().(*[pieces]byte)
	defer pool.Put(buffer)
	return io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, buffer[:])
}
