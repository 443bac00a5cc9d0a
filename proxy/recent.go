package proxy

import (
	"bytes"
	"sync"

	"github.com/opencontainers/go-digest"
)

// Bounds of recent.
const (
	maxRecentBlob = 32 << 10 // bytes
	maxRecent     = 256      // blobs
)

// recent keeps the small blobs that came last, which a storage far away would have to be asked for again: a push's config is read for what it says of the image. Its
// callers know that the request may read what they ask for. It is safe for concurrent use.
type recent struct {
	mu    sync.Mutex
	blobs map[digest.Digest][]byte
	order []digest.Digest // as they came
}

func (r *recent) keep(d digest.Digest, b []byte) {
	if len(b) > maxRecentBlob {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, kept := r.blobs[d]; kept {
		return
	}
	if r.blobs == nil {
		r.blobs = map[digest.Digest][]byte{}
	}
	if len(r.order) >= maxRecent {
		delete(r.blobs, r.order[0])
		r.order = r.order[1:]
	}
	r.blobs[d], r.order = b, append(r.order, d)
}

func (r *recent) get(d digest.Digest) ([]byte, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b, ok := r.blobs[d]
	return b, ok
}

// watched is a body on its way, of which the first bytes are kept while they are few.
type watched struct {
	*bodyReader
	seen bytes.Buffer
}

// Read implements io.Reader.
func (w *watched) Read(p []byte) (int, error) {
	n, err := w.bodyReader.Read(p)
	if room := maxRecentBlob + 1 - w.seen.Len(); room > 0 { // with one more it is no small one
		w.seen.Write(p[:min(n, room)])
	}
	return n, err
}
