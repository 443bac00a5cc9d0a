package proxy

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/storage"
)

var sha256Form = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// validDigest reports whether a digest is well-formed and of a supported algorithm: sha256 or sha512. See
// compatibility.md#distribution-specification.
func validDigest(d digest.Digest) bool {
	return d.Validate() == nil && (d.Algorithm() == digest.SHA256 || d.Algorithm() == digest.SHA512)
}

// getBlob handles GET and HEAD of a blob, with ranges.
func (c *call) getBlob() error {
	t, err := c.readableTarget()
	if err != nil {
		return err
	}
	dgst := digest.Digest(c.ref)
	if !validDigest(dgst) {
		return digestInvalid(c.ref)
	}
	if dgst == pulp.EmptyLayer {
		return c.sendBlob(t, emptyLayer())
	}
	b, err := c.Store.Serving.ServedBlob(c.r.Context(), t, dgst)
	if fault.Is(err, fault.NotFound) {
		return blobUnknown(c.ref)
	} else if err != nil {
		return err
	}
	pushes := false
	if c.r.Method == http.MethodHead {
		if pushes, err = c.mayWrite(access.Push); err != nil {
			return err
		}
	}
	if pushes {
		c.keepPending(t.Repository.ID, b)
	}
	if b.Absent {
		return c.getAbsentBlob(t, b)
	}
	err = c.sendBlob(t, b)
	if errors.Is(err, storage.ErrNotFound) { // a reclaim of space may have released it since it was found
		if now, again := c.Store.Serving.ServedBlob(c.r.Context(), t, dgst); again == nil && now.Absent {
			return c.getAbsentBlob(t, now)
		}
	}
	if pushes && errors.Is(err, storage.ErrNotFound) { // a second upload repairs the blob
		c.Log.WarnContext(
			c.r.Context(),
			"the storage lost a blob; asking the client to upload it again",
			slog.String("digest", c.ref),
			slog.Any("err", err),
		)
		return blobUnknown(c.ref)
	}
	return err
}

// emptySuffixRange matches a suffix range of 0 bytes. http.ServeContent would respond with a Content-Range whose end is
// before its start, as it does for empty blobs. RFC 9110, section 14.2, permits sending the whole blob instead.
var emptySuffixRange = regexp.MustCompile(`[=,\s]-\+?0+\s*(?:,|$)`)

// sendBlob sends a blob that is not absent, or a range of it. HEAD ignores ranges (RFC 9110, section 14.2).
func (c *call) sendBlob(t record.Target, b pulp.Blob) error {
	if c.r.Method == http.MethodHead || b.Size == 0 || emptySuffixRange.MatchString(c.r.Header.Get("Range")) {
		c.r.Header.Del("Range")
	}
	content, err := c.openForResponse(b)
	if within := t.Repository.UpstreamName(); errors.Is(err, storage.ErrNotFound) && c.manifests != nil &&
		b.Location != within {
		content, err = c.openInRepository(within, b, err)
	}
	if err != nil || content == nil {
		return err
	}
	defer func() { _ = content.Close() }()
	blobHeaders(c.w.Header(), b.Digest)
	if c.manifests != nil && !b.Inline && c.wantsWhole() {
		c.streamBlob(b, content)
		return nil
	}
	http.ServeContent(c.w, c.r, "", time.Time{}, content)
	return nil
}

// wantsWhole reports whether the request is a GET without a range and without preconditions.
func (c *call) wantsWhole() bool {
	h := c.r.Header
	return c.r.Method == http.MethodGet && h.Get("Range") == "" && h.Get("If-None-Match") == "" &&
		h.Get("If-Match") == ""
}

// remoteStorage is a storage with expensive requests: one request reads exactly the bytes that the client asked for.
type remoteStorage interface {
	// OpenPart opens a blob to read one part of it. Reading outside of the part costs another request.
	OpenPart(ctx context.Context, name string, dgst digest.Digest, part storage.Part) (io.ReadSeekCloser, error)
	// Locate is like OpenPart, or returns a URL from which clients can get the bytes without credentials.
	Locate(
		ctx context.Context,
		name string,
		dgst digest.Digest,
		part storage.Part,
	) (at string, content io.ReadSeekCloser, err error)
}

// openForResponse opens a blob for the response. It returns nil if it responded with a redirect. For HEAD and for a
// range outside of the blob it requests no bytes from a remoteStorage.
func (c *call) openForResponse(b pulp.Blob) (io.ReadSeekCloser, error) {
	far, ok := c.Storage.(remoteStorage)
	if b.Inline || !ok {
		return c.open(b)
	}
	b = c.withLocation(b)
	ctx, part := c.r.Context(), c.requestedPart(b.Size)
	var content io.ReadSeekCloser
	var at string
	var err error
	switch {
	case c.r.Method == http.MethodHead || part.First > part.Last && b.Size > 0:
		var size int64
		size, err = c.Storage.Stat(ctx, b.Location, b.Digest)
		content = storage.NewReader(
			size,
			func(int64) (io.ReadCloser, error) { return nil, io.ErrUnexpectedEOF },
			nil,
			0,
		)
	case c.PassThroughRedirects:
		at, content, err = far.Locate(ctx, b.Location, b.Digest, part)
	default:
		content, err = far.OpenPart(ctx, b.Location, b.Digest, part)
	}
	if errors.Is(err, storage.ErrNotFound) {
		return nil, fault.Wrap(fault.Unavailable, err, "The storage has lost the blob. Push it again.")
	}
	if err != nil || at == "" {
		return content, err
	}
	h := c.w.Header()
	h.Set("Location", at)
	h.Set("Cache-Control", "no-store") // for some time the URL grants access without credentials
	h.Set("Docker-Content-Digest", string(b.Digest))
	c.writeEmpty(http.StatusTemporaryRedirect)
	return nil, nil
}

// openInRepository is openForResponse for a blob that is gone from its location in the upstream. The upstream may
// have it in the repository within too; then that is the blob's new location. gone is the error to return if it does
// not.
func (c *call) openInRepository(within string, b pulp.Blob, gone error) (io.ReadSeekCloser, error) {
	lay := b.Location
	b.Location = within
	content, err := c.openForResponse(b)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, gone
	}
	if err == nil {
		if err := c.Store.Content.MoveBlob(c.r.Context(), b.Digest, lay, within); err != nil {
			c.Log.WarnContext(
				c.r.Context(),
				"cannot record the new location of a blob",
				slog.String("digest", string(b.Digest)),
				slog.Any("err", err),
			)
		}
	}
	return content, err
}

// singleRange matches a Range header with one range.
var singleRange = regexp.MustCompile(`^bytes=(\d{0,18})-(\d{0,18})$`)

// requestedPart returns the part of a blob that the Range header requests, or the whole blob if the header is absent
// or not simple. It is only a hint for the storage: http.ServeContent evaluates the header. First is greater than
// Last if the range is outside of the blob.
func (c *call) requestedPart(size int64) storage.Part {
	whole := storage.Part{Size: size, Last: size - 1}
	m := singleRange.FindStringSubmatch(c.r.Header.Get("Range"))
	if m == nil || m[1]+m[2] == "" || c.r.Header.Get("If-Range") != "" {
		return whole
	}
	first, _ := strconv.ParseInt(m[1], 10, 64) // empty is 0
	last, _ := strconv.ParseInt(m[2], 10, 64)
	switch {
	case m[1] == "":
		first, last = max(0, size-last), size-1
	case m[2] == "":
		last = size - 1
	}
	return storage.Part{Size: size, First: first, Last: min(last, size-1)}
}

// withLocation returns the blob with its Location set; the default is the request's name.
func (c *call) withLocation(b pulp.Blob) pulp.Blob {
	if b.Location == "" {
		b.Location = c.name
	}
	return b
}

// open opens a blob that is not absent.
func (c *call) open(b pulp.Blob) (io.ReadSeekCloser, error) {
	return c.blobs.Open(c.r.Context(), c.withLocation(b))
}

// keepPendingAfter is the minimum age of a blob for keepPending. Pushes ask for blobs that they just uploaded; those
// need no extension.
const keepPendingAfter = time.Hour

// keepPending restarts the retention period of a pending blob, so that the client that found it can still reference it.
func (c *call) keepPending(repositoryID string, b pulp.Blob) {
	if time.Since(b.Created) < keepPendingAfter {
		return
	}
	if err := c.Store.Content.TouchBlob(c.r.Context(), repositoryID, b.Digest); err != nil {
		c.Log.WarnContext(
			c.r.Context(),
			"cannot extend the retention of a pending blob",
			slog.String("digest", string(b.Digest)),
			slog.Any("err", err),
		)
	}
}

// deleteBlob handles DELETE of a blob. It fails if a manifest of the repository references the blob: see
// compatibility.md#deleting-content.
func (c *call) deleteBlob() error {
	t, err := c.writableTarget(access.Remove)
	if err != nil {
		return err
	}
	dgst := digest.Digest(c.ref)
	if !validDigest(dgst) {
		return newError(http.StatusBadRequest, "INVALID_REQUEST", "A blob can only be deleted by digest.", nil)
	}
	_, err = c.Store.Content.DeleteBlob(c.r.Context(), t.Repository.ID, dgst)
	c.audit("delete blob", err, slog.String("digest", c.ref))
	if fault.Is(err, fault.NotFound) {
		return blobUnknown(c.ref)
	} else if err != nil {
		return err
	}
	c.writeEmpty(http.StatusAccepted)
	return nil
}
