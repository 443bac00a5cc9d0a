package proxy

import (
	"errors"
	"io"
	"net/http"
	"strconv"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/intake"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/storage"
)

// blobLooks is how often a request looks for a blob that another request or another remote is to bring.
const blobLooks = 6

// getAbsentBlob answers with a blob that is fetched from its remote now: as its bytes arrive, or, for a range and for a request that comes during another one's fetch, when all
// have arrived. A blob that no remote has is unknown, for HEAD too, so that a push sends it again.
func (c *call) getAbsentBlob(t store.Target, b pulp.Blob) error {
	if b.RemoteID == "" {
		return blobUnknown(c.ref)
	}
	if c.r.Method == http.MethodHead {
		blobHeaders(c.w.Header(), b.Digest)
		c.w.Header().Set("Content-Length", strconv.FormatInt(b.Size, 10))
		c.w.WriteHeader(http.StatusOK)
		return nil
	}
	if c.Filler == nil {
		return errors.New("an absent blob, and nobody to fetch it")
	}
	for range blobLooks {
		got, err := c.Filler.Fetch(c.r.Context(), c.client(), t.Repository, b)
		if errors.Is(err, intake.ErrNoSource) {
			return blobUnknown(c.ref)
		} else if err != nil {
			return err
		}
		// A range of a blob that is not kept is answered with all of it (RFC 9110 section 14.2).
		if got.ReadCloser != nil && (c.r.Header.Get("Range") == "" || !got.Kept) {
			return c.streamBlob(b, got)
		}
		if got.ReadCloser != nil {
			_, err = io.Copy(io.Discard, got)
			_ = got.Close()
			if err != nil {
				return err
			}
		}
		if b, err = c.Store.ServedBlob(c.r.Context(), t, b.Digest); err != nil {
			return err
		}
		if !b.Absent {
			return c.sendBlob(t, b)
		}
	}
	return newError(http.StatusServiceUnavailable, "UNAVAILABLE", "The remote that has the blob does not give it.", nil).withHeader("Retry-After", "10")
}

// streamBlob sends bytes as they come. When they end wrong, so does the answer.
func (c *call) streamBlob(b pulp.Blob, bytes io.ReadCloser) error {
	defer func() { _ = bytes.Close() }()
	blobHeaders(c.w.Header(), b.Digest)
	c.w.Header().Set("Content-Length", strconv.FormatInt(b.Size, 10))
	if _, err := storage.Move(c.w, bytes); err != nil {
		panic(http.ErrAbortHandler) // the client must not take what it has for the blob
	}
	return nil
}

func blobHeaders(h http.Header, d digest.Digest) {
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Docker-Content-Digest", string(d))
	h.Set("Etag", `"`+string(d)+`"`)
	h.Set("Cache-Control", "max-age=31536000")
}
