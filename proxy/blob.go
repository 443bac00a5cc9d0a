package proxy

import (
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

var sha256Form = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// validDigest says whether a digest is well-formed and of an algorithm that is stored: sha256 or sha512 (D13).
func validDigest(d digest.Digest) bool {
	return d.Validate() == nil && (d.Algorithm() == digest.SHA256 || d.Algorithm() == digest.SHA512)
}

// getBlob answers with a blob's bytes, or a range of them.
func (c *call) getBlob() error {
	t, err := c.readable()
	if err != nil {
		return err
	}
	dgst := digest.Digest(c.ref)
	if !validDigest(dgst) {
		return digestInvalid(c.ref)
	}
	b, err := c.Store.ServedBlob(c.r.Context(), t, dgst)
	if fault.Is(err, fault.NotFound) {
		return blobUnknown(c.ref)
	} else if err != nil {
		return err
	}
	if c.r.Method == http.MethodHead && c.may(auth.Push, t, true) {
		c.touch(t.Repository.ID, b)
	}
	if b.Absent {
		return c.getAbsentBlob(t, b)
	}
	return c.sendBlob(b)
}

// sendBlob answers with the bytes that are here, or a range of them.
func (c *call) sendBlob(b pulp.Blob) error {
	content, err := c.open(b)
	if err != nil {
		return err
	}
	defer func() { _ = content.Close() }()
	blobHeaders(c.w.Header(), b.Digest)
	http.ServeContent(c.w, c.r, "", time.Time{}, content)
	return nil
}

// open returns a blob's bytes.
func (c *call) open(b pulp.Blob) (io.ReadSeekCloser, error) {
	if b.Location == "" {
		b.Location = c.name
	}
	return c.blobs.Open(c.r.Context(), b)
}

// touchAfter is how old a blob is before asking for it keeps it from being swept: pushes ask for blobs that they have just sent.
const touchAfter = time.Hour

// touch keeps a pending blob that a client asks for from being swept before the client names it.
func (c *call) touch(repositoryID string, b pulp.Blob) {
	if time.Since(b.Created) < touchAfter {
		return
	}
	if err := c.Store.TouchBlob(c.r.Context(), repositoryID, b.Digest); err != nil {
		c.Log.WarnContext(c.r.Context(), "blob not kept", slog.String("digest", string(b.Digest)), slog.Any("err", err))
	}
}

// deleteBlob takes a blob out of the repository, unless a manifest there names it (D22).
func (c *call) deleteBlob() error {
	t, err := c.writable(auth.Delete)
	if err != nil {
		return err
	}
	dgst := digest.Digest(c.ref)
	if !validDigest(dgst) {
		return newError(http.StatusBadRequest, "INVALID_REQUEST", "A blob can only be deleted by digest.", nil)
	}
	_, err = c.Store.DeleteBlob(c.r.Context(), t.Repository.ID, dgst)
	c.audit("delete blob", err, slog.String("digest", c.ref))
	if fault.Is(err, fault.NotFound) {
		return blobUnknown(c.ref)
	} else if err != nil {
		return err
	}
	c.empty(http.StatusAccepted)
	return nil
}
