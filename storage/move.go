package storage

import (
	"io"
	"sync"
)

// moveBuffer is the number of bytes that Move copies at a time. Each piece costs two system calls.
const moveBuffer = 256 << 10

var pool = sync.Pool{New: func() any { return new([moveBuffer]byte) }}

// Move copies from to to in large pieces. It does not use io.WriterTo and io.ReaderFrom: between two sockets, or with
// a hash in between, their pieces are smaller.
func Move(to io.Writer, from io.Reader) (int64, error) {
	buffer, _ := pool.Get().(*[moveBuffer]byte)
	defer pool.Put(buffer)
	return io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, buffer[:])
}
