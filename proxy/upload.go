package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/uploads"
	"github.com/countersign/countersign/storage"
)

var errChunkStart = newError(
	http.StatusRequestedRangeNotSatisfiable,
	"BLOB_UPLOAD_INVALID",
	"The chunk does not begin at the end of the upload.",
	nil,
)

// startUpload handles POST blobs/uploads/. It creates an upload session, stores a whole blob (?digest=), or mounts a
// blob of another repository (?mount=&from=). See compatibility.md#uploads.
func (c *call) startUpload() error {
	t, err := c.pushTarget()
	if err != nil {
		return err
	}
	q := c.r.URL.Query()
	if text := q.Get("digest"); text != "" && !q.Has("mount") {
		return c.postMonolithic(t, text)
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
	c.writeUploadStatus(u.ID, 0, http.StatusAccepted)
	return nil
}

// postMonolithic stores the blob in the body of the POST.
func (c *call) postMonolithic(t record.Target, text string) error {
	dgst := digest.Digest(text)
	if !validDigest(dgst) {
		return digestInvalid(text)
	}
	u := &upload{call: c, row: uploads.Upload{RepositoryID: t.Repository.ID, Repository: t.Repository.Name}}
	defer u.release()
	body := c.body()
	if whole, err := u.finishAtOnce(body, dgst); whole {
		return err
	}
	if err := u.append(body); err != nil {
		u.abort()
		return err
	}
	return u.commit(dgst)
}

func (c *call) uploadUnknown() error {
	return newError(
		http.StatusNotFound,
		"BLOB_UPLOAD_UNKNOWN",
		"blob upload unknown to registry",
		map[string]string{"uuid": c.ref},
	)
}

// getUpload handles GET of the status of an upload.
func (c *call) getUpload() error {
	t, err := c.writableTarget(access.Push)
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
	c.writeUploadStatus(row.ID, row.Size, http.StatusNoContent)
	return nil
}

// patchUpload handles PATCH, which appends a chunk. It sends the response after the storage has the chunk and the row
// of the upload records it.
func (c *call) patchUpload() error {
	u, err := c.openUpload()
	if err != nil {
		return err
	}
	defer u.release()
	body, err := u.chunk()
	if err != nil {
		return err
	}
	if err := u.append(body); err != nil {
		u.savePartial()
		return err
	}
	if err := u.save(c.r.Context()); err != nil {
		return err
	}
	c.writeUploadStatus(u.row.ID, u.row.Size, http.StatusAccepted)
	return nil
}

// putUpload handles PUT, which appends the last bytes, if any, and commits the upload as a blob.
func (c *call) putUpload() error {
	u, err := c.openUpload()
	if err != nil {
		return err
	}
	defer u.release()
	text := c.r.URL.Query().Get("digest")
	if dgst := digest.Digest(text); !validDigest(dgst) {
		u.abort()
		return digestInvalid(text)
	}
	body, err := u.chunk()
	if err != nil {
		return err
	}
	if whole, err := u.finishAtOnce(body, digest.Digest(text)); whole {
		return err
	}
	if err := u.append(body); err != nil {
		u.savePartial()
		return err
	}
	return u.commit(digest.Digest(text))
}

// finishAtOnce stores a blob that a single request contains, if the storage supports that, and sends the response. It
// returns false if the request must use the normal way.
func (u *upload) finishAtOnce(body *bodyReader, dgst digest.Digest) (bool, error) {
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
	from := &capturingReader{bodyReader: body}
	err := once.Finish(u.r.Context(), from, dgst)
	switch {
	case errors.Is(err, storage.ErrDigest):
		u.writer = nil
		u.abort()
		return true, digestInvalid(string(dgst))
	case errors.Is(err, storage.ErrNotFound): // the upstream no longer has the session
		u.abort()
		return true, u.uploadUnknown()
	case err != nil && body.failed != nil && !fault.Is(err, fault.Unavailable):
		u.abort()
		return true, u.incompleteBody(err)
	case err != nil:
		u.abort()
		return true, err
	}
	err = u.finish(pulp.Blob{Digest: dgst, Size: u.writer.Size(), Location: u.storageName()})
	if err == nil && u.writer.Size() == int64(from.seen.Len()) {
		u.recent.add(dgst, from.seen.Bytes())
	}
	return true, err
}

// deleteUpload handles DELETE, which cancels an upload.
func (c *call) deleteUpload() error {
	u, err := c.openUpload()
	if err != nil {
		return err
	}
	defer u.release()
	if err := c.Store.Uploads.DeleteUpload(c.r.Context(), u.row.RepositoryID, u.row.ID); err != nil &&
		!fault.Is(err, fault.NotFound) {
		return err
	}
	u.discard(context.WithoutCancel(c.r.Context()))
	c.audit("cancel upload", nil)
	c.writeEmpty(http.StatusNoContent)
	return nil
}

// contentRange matches the Content-Range of a chunk: its first and last byte (OCI distribution specification 1.1,
// "Pushing a blob in chunks").
var contentRange = regexp.MustCompile(`^(\d{1,18})-(\d{1,18})$`)

// chunk returns the request's body after it verified the Content-Range, if any: the chunk must begin at the end of the
// upload and have the stated length.
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
		return nil, errChunkStart.withHeader("Range", uploadRange(u.row.Size)).
			withHeader("Location", u.uploadLocation(u.row.ID)).
			withHeader("Docker-Upload-UUID", u.row.ID)
	}
	if length < 0 {
		body.r = &exactReader{body.r, last - first + 1}
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

// uploadRange returns the Range header of an upload of this size. For an empty upload it is `0-0`, as in Pulp.
func uploadRange(size int64) string { return fmt.Sprintf("0-%d", max(0, size-1)) }

func (c *call) uploadLocation(id string) string { return "/v2/" + c.name + "/blobs/uploads/" + id }

func (c *call) writeUploadStatus(id string, size int64, status int) {
	h := c.w.Header()
	h.Set("Location", c.uploadLocation(id))
	h.Set("Docker-Upload-UUID", id)
	h.Set("Range", uploadRange(size))
	c.writeEmpty(status)
}

func (c *call) writeBlobCreated(dgst digest.Digest) {
	h := c.w.Header()
	h.Set("Location", "/v2/"+c.name+"/blobs/"+string(dgst))
	h.Set("Docker-Content-Digest", string(dgst))
	c.writeEmpty(http.StatusCreated)
}
