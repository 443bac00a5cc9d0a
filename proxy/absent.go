package proxy

import (
	"errors"
	"io"
	"net/http"
	"strconv"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/storage"
)

// waitsForBlob is how often a request that waits for somebody else's fetching looks again.
const waitsForBlob = 3

// getAbsentBlob answers with a blob that is fetched from its remote at this moment: as its bytes come, or, to who wants a range or comes while another
// fetches it, when all are there.
func (c *call) getAbsentBlob(t store.Target, b pulp.Blob) error {
	if c.r.Method == http.MethodHead {
		blobHeaders(c.w.Header(), b.Digest)
		c.w.Header().Set("Content-Length", strconv.FormatInt(b.Size, 10))
		c.w.WriteHeader(http.StatusOK)
		return nil
	}
	if c.Filler == nil {
		return errors.New("an absent blob, and nobody to fetch it")
	}
	for range waitsForBlob {
		got, err := c.Filler.Fetch(c.r.Context(), t.Repository, b)
		if err != nil {
			return err
		}
		// A range of what is not kept is all of it, as it comes (RFC 9110 section 14.2).
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
		again, err := c.Store.ServedBlob(c.r.Context(), t, b.Digest)
		if err != nil {
			return err
		}
		if !again.Absent {
			return c.sendBlob(t, again)
		}
	}
	return newError(http.StatusServiceUnavailable, "UNAVAILABLE", "The remote that has the blob does not give it.", nil)
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
