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

// maxFetchAttempts is the number of times that a request tries to get an absent blob from remotes or other requests.
const maxFetchAttempts = 6

// getAbsentBlob sends a blob that it fetches from its remote. It streams the bytes as they arrive. For a range, and if
// another request fetches the blob already, it waits for the end of the fetch instead. A blob that no remote has is
// BLOB_UNKNOWN, also for HEAD, so that clients push it again.
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
	// The response to a range of a blob that is not stored is the whole blob (RFC 9110, section 14.2).
	b, err := c.fetchAbsent(t, b, func(b pulp.Blob, got ingest.Fetched) bool {
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

// fetchAbsent fetches an absent blob from its remotes, one after another, and returns the blob of the repository after
// that. stream receives the bytes of a fetch that this request starts and may consume them: then it returns true, and
// fetchAbsent returns the unchanged blob. The failure is BLOB_UNKNOWN if no remote has the blob.
func (c *call) fetchAbsent(
	t record.Target,
	b pulp.Blob,
	stream func(pulp.Blob, ingest.Fetched) bool,
) (pulp.Blob, error) {
	if c.Fetcher == nil {
		return b, errors.New("the blob is absent and this server does not fetch from remotes")
	}
	tried := map[string]bool{}
	for range maxFetchAttempts {
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
		case err != nil && tried[again.RemoteID]: // no other remote is left
			return b, err
		}
		b = again
	}
	return b, newError(
		http.StatusServiceUnavailable,
		"UNAVAILABLE",
		"The remote did not send the blob. Try again later.",
		nil,
	).withHeader("Retry-After", "10")
}

// streamBlob sends the bytes of a blob as they arrive. It aborts the connection if they end with an error.
func (c *call) streamBlob(b pulp.Blob, bytes io.ReadCloser) {
	defer func() { _ = bytes.Close() }()
	blobHeaders(c.w.Header(), b.Digest)
	c.w.Header().Set("Content-Length", strconv.FormatInt(b.Size, 10))
	if _, err := storage.Move(c.w, bytes); err != nil {
		panic(http.ErrAbortHandler) // so that the client detects the truncated blob
	}
}

func blobHeaders(h http.Header, d digest.Digest) {
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Docker-Content-Digest", string(d))
	h.Set("Etag", `"`+string(d)+`"`)
	h.Set("Cache-Control", "max-age=31536000")
}
