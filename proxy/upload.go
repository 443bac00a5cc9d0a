package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/uploads"
	"github.com/countersign/countersign/storage"
)

var errRange = newError(http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID", "The chunk does not begin where the upload ends.", nil)

// startUpload answers POST blobs/uploads/ (contract 3.2): it opens an upload, takes a whole blob at once (?digest=), or mounts one
// that another repository holds (?mount=&from=).
func (c *call) startUpload() error {
	t, err := c.pushTarget()
	if err != nil {
		return err
	}
	q := c.r.URL.Query()
	if text := q.Get("digest"); text != "" && !q.Has("mount") {
		return c.takeWhole(t, text)
	}
	if q.Has("mount") {
		mounted, err := c.mount(t, q.Get("from"), digest.Digest(q.Get("mount")))
		if mounted || err != nil {
			return err
		}
	}
	u, err := c.Store.Uploads.CreateUpload(c.r.Context(), t.Repository.ID)
	if err != nil {
		return err
	}
	c.answerUpload(u.ID, 0, http.StatusAccepted)
	return nil
}

// takeWhole takes a blob that comes with the POST.
func (c *call) takeWhole(t record.Target, text string) error {
	dgst := digest.Digest(text)
	if !validDigest(dgst) {
		return digestInvalid(text)
	}
	u := &upload{call: c, row: uploads.Upload{RepositoryID: t.Repository.ID, Repository: t.Repository.Name}}
	defer u.leave()
	body := c.body()
	if whole, err := u.takeAtOnce(body, dgst); whole {
		return err
	}
	if err := u.append(body); err != nil {
		u.abandon()
		return err
	}
	return u.commit(dgst)
}

func (c *call) uploadUnknown() error {
	return newError(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry", map[string]string{"uuid": c.ref})
}

// getUpload answers how far an upload is.
func (c *call) getUpload() error {
	t, err := c.writable(auth.Push)
	if err != nil {
		return err
	}
	if !pulp.ValidUUID(c.ref) {
		return c.uploadUnknown()
	}
	row, err := c.Store.Uploads.Upload(c.r.Context(), t.Repository.ID, c.ref)
	if fault.Is(err, fault.NotFound) {
		return c.uploadUnknown()
	} else if err != nil {
		return err
	}
	c.answerUpload(row.ID, row.Size, http.StatusNoContent)
	return nil
}

// patchUpload appends a chunk. It is answered when the chunk has left our buffers and the upload's row says so.
func (c *call) patchUpload() error {
	u, err := c.openUpload()
	if err != nil {
		return err
	}
	defer u.leave()
	body, err := u.chunk()
	if err != nil {
		return err
	}
	if err := u.append(body); err != nil {
		u.salvage()
		return err
	}
	if err := u.save(c.r.Context()); err != nil {
		return err
	}
	c.answerUpload(u.row.ID, u.row.Size, http.StatusAccepted)
	return nil
}

// putUpload appends the last bytes, if any come with it, and ends the upload under a digest.
func (c *call) putUpload() error {
	u, err := c.openUpload()
	if err != nil {
		return err
	}
	defer u.leave()
	text := c.r.URL.Query().Get("digest")
	if dgst := digest.Digest(text); !validDigest(dgst) {
		u.abandon()
		return digestInvalid(text)
	}
	body, err := u.chunk()
	if err != nil {
		return err
	}
	if whole, err := u.takeAtOnce(body, digest.Digest(text)); whole {
		return err
	}
	if err := u.append(body); err != nil {
		u.salvage()
		return err
	}
	return u.commit(digest.Digest(text))
}

// takeAtOnce takes a blob that comes all in one request, where the storage saves work by that, and answers; false where it does not.
func (u *upload) takeAtOnce(body *bodyReader, dgst digest.Digest) (bool, error) {
	if u.row.StorageRef != "" || u.row.Size > 0 || u.InlineLimit > 0 {
		return false, nil
	}
	if err := u.openWriter(); err != nil {
		return true, err
	}
	once, ok := u.writer.(storage.Finisher)
	if !ok {
		return false, nil
	}
	from := &watched{bodyReader: body}
	err := once.Finish(u.r.Context(), from, dgst)
	switch {
	case errors.Is(err, storage.ErrDigest):
		u.writer = nil
		u.abandon()
		return true, digestInvalid(string(dgst))
	case errors.Is(err, storage.ErrNotFound): // the upstream has forgotten the upload
		u.abandon()
		return true, u.uploadUnknown()
	case err != nil && body.failed != nil && !fault.Is(err, fault.Unavailable):
		u.abandon()
		return true, u.cutShort(err)
	case err != nil:
		u.abandon()
		return true, err
	}
	err = u.keep(pulp.Blob{Digest: dgst, Size: u.writer.Size(), Location: u.within()})
	if err == nil && u.writer.Size() == int64(from.seen.Len()) {
		u.recent.keep(dgst, from.seen.Bytes())
	}
	return true, err
}

// deleteUpload ends an upload without a blob.
func (c *call) deleteUpload() error {
	u, err := c.openUpload()
	if err != nil {
		return err
	}
	defer u.leave()
	if err := c.Store.Uploads.DeleteUpload(c.r.Context(), u.row.RepositoryID, u.row.ID); err != nil && !fault.Is(err, fault.NotFound) {
		return err
	}
	u.drop(context.WithoutCancel(c.r.Context()))
	c.empty(http.StatusNoContent)
	return nil
}

// contentRange is how clients say where a chunk belongs: first and last byte (OCI distribution specification 1.1, "Pushing a blob in
// chunks").
var contentRange = regexp.MustCompile(`^(\d{1,18})-(\d{1,18})$`)

// chunk returns the request's body, after seeing that a chunk that says where it belongs belongs at the end. One that says no length of
// its own is held to what it says of its place.
func (u *upload) chunk() (*bodyReader, error) {
	body := u.body()
	text := u.r.Header.Get("Content-Range")
	if text == "" {
		return body, nil
	}
	first, last, ok := parseRange(text)
	if !ok {
		return nil, newError(http.StatusBadRequest, "INVALID_REQUEST", "Invalid range header", nil)
	}
	length := u.r.ContentLength
	if first != u.row.Size || length >= 0 && last-first+1 != length {
		return nil, errRange.withHeader("Range", rangeOf(u.row.Size)).withHeader("Location", u.location(u.row.ID)).withHeader("Docker-Upload-UUID", u.row.ID)
	}
	if length < 0 {
		body.r = &exactly{body.r, last - first + 1}
	}
	return body, nil
}

func parseRange(text string) (first, last int64, ok bool) {
	m := contentRange.FindStringSubmatch(text)
	if m == nil {
		return 0, 0, false
	}
	first, err1 := strconv.ParseInt(m[1], 10, 64)
	last, err2 := strconv.ParseInt(m[2], 10, 64)
	return first, last, errors.Join(err1, err2) == nil && last >= first
}

// rangeOf is what an upload of this size holds, as the registry says it: of an empty one `0-0` (contract 3.2).
func rangeOf(size int64) string { return fmt.Sprintf("0-%d", max(0, size-1)) }

func (c *call) location(id string) string { return "/v2/" + c.name + "/blobs/uploads/" + id }

func (c *call) answerUpload(id string, size int64, status int) {
	h := c.w.Header()
	h.Set("Location", c.location(id))
	h.Set("Docker-Upload-UUID", id)
	h.Set("Range", rangeOf(size))
	c.empty(status)
}

func (c *call) answerBlob(dgst digest.Digest) {
	h := c.w.Header()
	h.Set("Location", "/v2/"+c.name+"/blobs/"+string(dgst))
	h.Set("Docker-Content-Digest", string(dgst))
	c.empty(http.StatusCreated)
}
