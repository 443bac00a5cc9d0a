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

	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/storage"
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
	if dgst == pulp.EmptyLayer {
		return c.sendBlob(t, emptyLayer())
	}
	b, err := c.Store.Serving.ServedBlob(c.r.Context(), t, dgst)
	if fault.Is(err, fault.NotFound) {
		return blobUnknown(c.ref)
	} else if err != nil {
		return err
	}
	pushes := c.r.Method == http.MethodHead && c.may(auth.Push)
	if pushes {
		c.touch(t.Repository.ID, b)
	}
	if b.Absent {
		return c.getAbsentBlob(t, b)
	}
	err = c.sendBlob(t, b)
	if pushes && errors.Is(err, storage.ErrNotFound) { // who sends it again mends it
		c.Log.WarnContext(c.r.Context(), "the storage has lost a blob; its pusher is told that it is not there", slog.String("digest", c.ref), slog.Any("err", err))
		return blobUnknown(c.ref)
	}
	return err
}

// emptyRange finds the last no bytes in a Range. http.ServeContent would answer with a Content-Range that ends before it begins, as it does for the end of a blob
// that is empty; all of the blob may be sent instead (RFC 9110, 14.2).
var emptyRange = regexp.MustCompile(`[=,\s]-\+?0+\s*(?:,|$)`)

// sendBlob answers with the bytes that are here, or a range of them. A HEAD asks for no range (RFC 9110, 14.2).
func (c *call) sendBlob(t record.Target, b pulp.Blob) error {
	if c.r.Method == http.MethodHead || b.Size == 0 || emptyRange.MatchString(c.r.Header.Get("Range")) {
		c.r.Header.Del("Range")
	}
	content, err := c.fetch(b)
	if within := t.Repository.UpstreamName(); errors.Is(err, storage.ErrNotFound) && c.manifests != nil && b.Location != within {
		content, err = c.fetchUnder(within, b, err)
	}
	if err != nil || content == nil {
		return err
	}
	defer func() { _ = content.Close() }()
	blobHeaders(c.w.Header(), b.Digest)
	if c.manifests != nil && !b.Inline && c.plain() {
		c.streamBlob(b, content)
		return nil
	}
	http.ServeContent(c.w, c.r, "", time.Time{}, content)
	return nil
}

// plain says whether the request is for all of something, whatever it was before.
func (c *call) plain() bool {
	h := c.r.Header
	return c.r.Method == http.MethodGet && h.Get("Range") == "" && h.Get("If-None-Match") == "" && h.Get("If-Match") == ""
}

// remote is a storage far away, which is asked once for what a client wants.
type remote interface {
	// OpenPart opens a blob where a part of it is to be read; what is read elsewhere it asks for again.
	OpenPart(ctx context.Context, name string, dgst digest.Digest, part storage.Part) (io.ReadSeekCloser, error)
	// Locate is OpenPart, or says where clients may get the bytes, without the storage's credentials.
	Locate(ctx context.Context, name string, dgst digest.Digest, part storage.Part) (at string, content io.ReadSeekCloser, err error)
}

// fetch returns a blob's bytes for the answer; nil when the answer was that they are elsewhere. For HEAD, and for a range that is not there, it asks a storage that is far
// away for no bytes.
func (c *call) fetch(b pulp.Blob) (io.ReadSeekCloser, error) {
	far, ok := c.Storage.(remote)
	if b.Inline || !ok {
		return c.open(b)
	}
	b = c.located(b)
	ctx, part := c.r.Context(), c.part(b.Size)
	var content io.ReadSeekCloser
	var at string
	var err error
	switch {
	case c.r.Method == http.MethodHead || part.First > part.Last && b.Size > 0:
		var size int64
		size, err = c.Storage.Stat(ctx, b.Location, b.Digest)
		content = storage.NewReader(size, func(int64) (io.ReadCloser, error) { return nil, io.ErrUnexpectedEOF }, nil, 0)
	case c.HandOnRedirects:
		at, content, err = far.Locate(ctx, b.Location, b.Digest, part)
	default:
		content, err = far.OpenPart(ctx, b.Location, b.Digest, part)
	}
	if errors.Is(err, storage.ErrNotFound) {
		return nil, fault.Wrap(fault.Unavailable, err, "The storage has lost the blob.")
	}
	if err != nil || at == "" {
		return content, err
	}
	h := c.w.Header()
	h.Set("Location", at)
	h.Set("Cache-Control", "no-store") // it lets in whoever knows it, for a while
	h.Set("Docker-Content-Digest", string(b.Digest))
	c.empty(http.StatusTemporaryRedirect)
	return nil, nil
}

// fetchUnder is fetch for a blob that is gone from where it lay: the upstream may have it under the repository's name too, and keeps it there from now on.
func (c *call) fetchUnder(within string, b pulp.Blob, gone error) (io.ReadSeekCloser, error) {
	lay := b.Location
	b.Location = within
	content, err := c.fetch(b)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, gone
	}
	if err == nil {
		if err := c.Store.Content.MoveBlob(c.r.Context(), b.Digest, lay, within); err != nil {
			c.Log.WarnContext(c.r.Context(), "where a blob lies is not written down", slog.String("digest", string(b.Digest)), slog.Any("err", err))
		}
	}
	return content, err
}

// oneRange is a Range of one piece, as nearly all are.
var oneRange = regexp.MustCompile(`^bytes=(\d{0,18})-(\d{0,18})$`)

// part is what the request's Range will want of a blob of a size, all of it where that is not easily said. http.ServeContent decides; this only saves asking for more. First is
// behind Last where there is no such range.
func (c *call) part(size int64) storage.Part {
	whole := storage.Part{Size: size, Last: size - 1}
	m := oneRange.FindStringSubmatch(c.r.Header.Get("Range"))
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

// located returns a blob with the name under which it lies.
func (c *call) located(b pulp.Blob) pulp.Blob {
	if b.Location == "" {
		b.Location = c.name
	}
	return b
}

// open returns a blob's bytes.
func (c *call) open(b pulp.Blob) (io.ReadSeekCloser, error) {
	return c.blobs.Open(c.r.Context(), c.located(b))
}

// touchAfter is how old a blob is before asking for it keeps it from being swept: pushes ask for blobs that they have just sent.
const touchAfter = time.Hour

// touch keeps a pending blob that a client asks for from being swept before the client names it.
func (c *call) touch(repositoryID string, b pulp.Blob) {
	if time.Since(b.Created) < touchAfter {
		return
	}
	if err := c.Store.Content.TouchBlob(c.r.Context(), repositoryID, b.Digest); err != nil {
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
	_, err = c.Store.Content.DeleteBlob(c.r.Context(), t.Repository.ID, dgst)
	c.audit("delete blob", err, slog.String("digest", c.ref))
	if fault.Is(err, fault.NotFound) {
		return blobUnknown(c.ref)
	} else if err != nil {
		return err
	}
	c.empty(http.StatusAccepted)
	return nil
}
