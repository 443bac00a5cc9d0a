package proxy

import (
	"errors"
	"io"
	"net/http"
	"strconv"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/ingest"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/storage"
)

// blobLooks is how often a request looks for a blob that another request or another remote is to bring.
const blobLooks = 6

// getAbsentBlob answers with a blob that is fetched from its remote now: as its bytes arrive, or, for a range and for a request that comes during another one's fetch, when all
// have arrived. A blob that no remote has is unknown, for HEAD too, so that a push sends it again.
func (c *call) getAbsentBlob(t record.Target, b pulp.Blob) error {
	if b.RemoteID == "" {
		return blobUnknown(c.ref)
	}
	if c.r.Method == http.MethodHead {
		blobHeaders(c.w.Header(), b.Digest)
		c.w.Header().Set("Content-Length", strconv.FormatInt(b.Size, 10))
		c.w.WriteHeader(http.StatusOK)
		return nil
	}
	streamed := false
	// A range of a blob that is not kept is answered with all of it (RFC 9110 section 14.2).
	b, err := c.bring(t, b, func(b pulp.Blob, got ingest.Fetched) bool {
		if streamed = c.r.Header.Get("Range") == "" || !got.Kept; streamed {
			c.streamBlob(b, got)
		}
		return streamed
	})
	if streamed || err != nil {
		return err
	}
	return c.sendBlob(t, b)
}

// bring has an absent blob fetched, from each of its remotes until one gives it, and returns the blob as the repository has it then. stream may take the bytes of a fetch that this
// request causes; where it does, bring returns the blob as it was. A blob that no remote has is unknown.
func (c *call) bring(t record.Target, b pulp.Blob, stream func(pulp.Blob, ingest.Fetched) bool) (pulp.Blob, error) {
	if c.Fetcher == nil {
		return b, errors.New("an absent blob, and nobody to fetch it")
	}
	tried := map[string]bool{}
	for range blobLooks {
		tried[b.RemoteID] = true
		got, err := c.Fetcher.Fetch(c.r.Context(), c.client(), t.Repository, b)
		if got.ReadCloser != nil {
			if stream(b, got) {
				return b, nil
			}
			_, err = io.Copy(io.Discard, got)
			_ = got.Close()
		}
		again, lookErr := c.Store.Serving.ServedBlob(c.r.Context(), t, b.Digest)
		switch {
		case lookErr != nil:
			return b, lookErr
		case !again.Absent:
			return again, nil
		case again.RemoteID == "" || errors.Is(err, ingest.ErrLacks) && tried[again.RemoteID]:
			return b, blobUnknown(string(b.Digest))
		case err != nil && tried[again.RemoteID]: // no other remote has it
			return b, err
		}
		b = again
	}
	return b, newError(http.StatusServiceUnavailable, "UNAVAILABLE", "The remote that has the blob does not give it.", nil).withHeader("Retry-After", "10")
}

// streamBlob answers with a blob's bytes as they arrive. When they end with an error, the connection is broken off.
func (c *call) streamBlob(b pulp.Blob, bytes io.ReadCloser) {
	defer func() { _ = bytes.Close() }()
	blobHeaders(c.w.Header(), b.Digest)
	c.w.Header().Set("Content-Length", strconv.FormatInt(b.Size, 10))
	if _, err := storage.Move(c.w, bytes); err != nil {
		panic(http.ErrAbortHandler) // the client must not take what it has for the blob
	}
}

func blobHeaders(h http.Header, d digest.Digest) {
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Docker-Content-Digest", string(d))
	h.Set("Etag", `"`+string(d)+`"`)
	h.Set("Cache-Control", "max-age=31536000")
}
