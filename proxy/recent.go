package proxy

import (
	"bytes"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"
)

// Limits of recent.
const (
	maxRecentBlob = 32 << 10 // bytes of one blob
	maxRecent     = 256      // blobs; the least recently used are evicted
)

// recent caches small blobs that clients uploaded last. A push reads its config, which would cost another request to a
// remoteStorage. Callers must verify that the request may read a blob before they get it. recent is safe for concurrent
// use.
type recent struct {
	blobs *lru.Cache[digest.Digest, []byte]
}

func newRecent() recent {
	blobs, err := lru.New[digest.Digest, []byte](maxRecent)
	if err != nil { // the size is a positive constant
		panic(err)
	}
	return recent{blobs}
}

// add caches a blob unless it is larger than maxRecentBlob.
func (r recent) add(d digest.Digest, b []byte) {
	if len(b) <= maxRecentBlob {
		r.blobs.Add(d, b)
	}
}

func (r recent) get(d digest.Digest) ([]byte, bool) { return r.blobs.Get(d) }

// capturingReader reads a body and keeps its first maxRecentBlob+1 bytes.
type capturingReader struct {
	*bodyReader
	seen bytes.Buffer
}

// Read implements io.Reader.
func (w *capturingReader) Read(p []byte) (int, error) {
	n, err := w.bodyReader.Read(p)
	if room := maxRecentBlob + 1 - w.seen.Len(); room > 0 { // one more byte shows that the blob is too large
		w.seen.Write(p[:min(n, room)])
	}
	return n, err
}
