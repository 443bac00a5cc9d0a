package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"strconv"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
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
	u, err := c.Store.CreateUpload(c.r.Context(), t.Repository.ID)
	if err != nil {
		return err
	}
	c.answerUpload(u.ID, 0, http.StatusAccepted)
	return nil
}

// takeWhole takes a blob that comes with the POST.
func (c *call) takeWhole(t store.Target, text string) error {
	dgst := digest.Digest(text)
	if !validDigest(dgst) {
		return digestInvalid(text)
	}
	u := &upload{call: c, row: store.Upload{RepositoryID: t.Repository.ID, Repository: t.Repository.Name}}
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

// upload is one request's hold on an upload.
type upload struct {
	*call
	row    store.Upload   // ID is empty for a blob that comes whole
	acked  int64          // bytes that earlier requests were told are safe
	writer storage.Upload // where the bytes go once they are many; nil before
	torn   bool           // the storage failed: what it has of this request's bytes is not known
}

// openUpload takes hold of the upload that the request names. The holder calls leave.
func (c *call) openUpload() (*upload, error) {
	t, err := c.writable(auth.Push)
	if err != nil {
		return nil, err
	}
	if !pulp.ValidUUID(c.ref) {
		return nil, c.uploadUnknown()
	}
	if !c.writers.acquire(c.ref) {
		return nil, newError(http.StatusConflict, "BLOB_UPLOAD_INVALID", "Another request writes to this upload.", nil)
	}
	row, err := c.Store.Upload(c.r.Context(), t.Repository.ID, c.ref)
	if err != nil {
		c.writers.release(c.ref)
		if fault.Is(err, fault.NotFound) {
			return nil, c.uploadUnknown()
		}
		return nil, err
	}
	return &upload{call: c, row: row, acked: row.Size}, nil
}

// within is the name under which the storage gets the bytes.
func (u *upload) within() string { return pulp.UpstreamName(u.row.Repository, u.row.RepositoryID) }

// leave gives the upload back.
func (u *upload) leave() {
	if u.row.ID != "" {
		u.writers.release(u.row.ID)
	}
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
	row, err := c.Store.Upload(c.r.Context(), t.Repository.ID, c.ref)
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
func (u *upload) takeAtOnce(body *idleReader, dgst digest.Digest) (bool, error) {
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
	from := &watched{idleReader: body}
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
	u.abandon()
	c.empty(http.StatusNoContent)
	return nil
}

// contentRange is how clients say where a chunk belongs: first and last byte (OCI distribution specification 1.1, "Pushing a blob in
// chunks").
var contentRange = regexp.MustCompile(`^(\d{1,18})-(\d{1,18})$`)

// chunk returns the request's body, after seeing that a chunk that says where it belongs belongs at the end. One that says no length of
// its own is held to what it says of its place.
func (u *upload) chunk() (*idleReader, error) {
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

// append adds all of a body to the upload: to the bytes in the row while they are few, else to the storage.
func (u *upload) append(body *idleReader) error {
	var from io.Reader = body
	if u.row.StorageRef == "" && u.writer == nil && u.row.Size+u.InlineLimit > 0 {
		few, err := io.ReadAll(io.LimitReader(body, u.InlineLimit+1-u.row.Size))
		u.row.Data = append(u.row.Data, few...)
		u.row.Size = int64(len(u.row.Data))
		if err != nil {
			return u.cutShort(err)
		}
		if u.row.Size <= u.InlineLimit && u.InlineLimit > 0 {
			return nil
		}
		from = io.MultiReader(bytes.NewReader(u.row.Data), body)
	}
	if err := u.openWriter(); err != nil {
		return err
	}
	if body.Left() == 0 && u.row.StorageRef != "" { // a PUT mostly brings nothing more
		return nil
	}
	_, err := u.writer.ReadFrom(from)
	u.row.Size = u.writer.Size()
	if errors.Is(err, storage.ErrNotFound) {
		u.abandon()
		return u.uploadUnknown()
	}
	if err != nil && body.failed != nil && !fault.Is(err, fault.Unavailable) {
		return u.cutShort(err)
	}
	u.torn = err != nil
	return err
}

// openWriter opens the storage's writer: the kept one, where it stands where the row says, else from the storage.
func (u *upload) openWriter() error {
	// The writer outlives the request.
	ctx := context.WithoutCancel(u.r.Context())
	var err error
	if u.writer != nil {
		return nil
	}
	if u.row.StorageRef == "" {
		u.writer, err = u.Storage.Create(ctx, u.within())
		return err
	}
	if u.writer = u.writers.take(u.row.ID, u.row.Epoch, u.row.Size); u.writer != nil {
		return nil
	}
	u.writer, err = u.Storage.Resume(ctx, u.within(), u.row.StorageRef, u.row.Size)
	if errors.Is(err, storage.ErrNotFound) {
		u.abandon()
		return u.uploadUnknown()
	}
	return err
}

// save writes down how far the upload is, for the next request.
func (u *upload) save(ctx context.Context) error {
	if u.writer != nil {
		u.row.StorageRef, u.row.Size = u.writer.Ref(), u.writer.Size()
	}
	epoch, err := u.Store.SaveUpload(ctx, u.row)
	if err != nil {
		if u.writer != nil {
			_ = u.writer.Close()
		}
		if fault.Is(err, fault.NotFound) {
			return u.uploadUnknown()
		}
		return err
	}
	u.row.Epoch = epoch
	if u.writer != nil {
		u.writers.keep(u.row.ID, epoch, u.writer)
	}
	return nil
}

// salvage writes down what has come of a chunk that was cut short, so that the client need not send it again. What was acknowledged before is
// never given up for it: where the storage failed, or kept nothing new, the row stays as it is, and what lies behind its end is dropped by the next
// Resume.
func (u *upload) salvage() {
	ctx := context.WithoutCancel(u.r.Context())
	switch {
	case u.writer != nil && u.row.StorageRef == "" && (u.torn || u.writer.Size() <= u.acked):
		_ = u.writer.Cancel(ctx) // the row has all bytes
		return
	case u.torn:
		_ = u.writer.Close()
		return
	case u.writer == nil:
		u.row.Data = u.row.Data[:min(int64(len(u.row.Data)), max(u.InlineLimit, u.acked))]
		u.row.Size = int64(len(u.row.Data))
		if u.row.StorageRef != "" || u.row.Size == u.acked {
			return
		}
	}
	if err := u.save(ctx); err != nil {
		u.Log.DebugContext(ctx, "part of a chunk is lost", slog.String("upload", u.row.ID), slog.Any("err", err))
	}
}

// abandon ends the upload and drops its bytes.
func (u *upload) abandon() {
	ctx := context.WithoutCancel(u.r.Context())
	if u.writer == nil && u.row.StorageRef != "" && u.row.ID != "" {
		if u.writer = u.writers.take(u.row.ID, u.row.Epoch, u.row.Size); u.writer == nil {
			u.writer, _ = u.Storage.Resume(ctx, u.within(), u.row.StorageRef, u.row.Size) // gone is as good as canceled
		}
	}
	if u.writer != nil {
		if err := u.writer.Cancel(ctx); err != nil {
			u.Log.WarnContext(ctx, "bytes of an upload stay behind", slog.Any("err", err))
		}
	}
	if u.row.ID == "" {
		return
	}
	if err := u.Store.DeleteUpload(ctx, u.row.RepositoryID, u.row.ID); err != nil && !fault.Is(err, fault.NotFound) {
		u.Log.WarnContext(ctx, "an upload stays open until it is swept", slog.String("upload", u.row.ID), slog.Any("err", err))
	}
}

// commit ends the upload under a digest and answers. Bytes that are not the digest's end it too (D7).
func (u *upload) commit(dgst digest.Digest) error {
	if u.writer == nil && u.row.StorageRef != "" {
		if err := u.openWriter(); err != nil {
			return err
		}
	}
	b := pulp.Blob{Digest: dgst, Size: u.row.Size, Location: u.within()}
	if u.writer == nil {
		b.Inline, b.Data = true, u.row.Data
		if dgst.Algorithm().FromBytes(b.Data) != dgst {
			u.abandon()
			return digestInvalid(string(dgst))
		}
	} else {
		b.Size = u.writer.Size()
		err := u.writer.Commit(u.r.Context(), dgst)
		if errors.Is(err, storage.ErrDigest) {
			u.writer = nil
			u.row.StorageRef = ""
			u.abandon()
			return digestInvalid(string(dgst))
		} else if errors.Is(err, storage.ErrNotFound) && u.row.ID != "" {
			u.abandon()
			return u.uploadUnknown()
		} else if err != nil {
			if u.row.ID == "" { // nobody can come back for it
				u.abandon()
			}
			_ = u.writer.Close()
			return err
		}
	}
	return u.keep(b)
}

// keep makes a blob whose bytes are safe the repository's, and answers.
func (u *upload) keep(b pulp.Blob) error {
	err := u.record(b)
	u.audit("push blob", err, slog.String("digest", string(b.Digest)), slog.Int64("size", b.Size))
	if err != nil {
		return err
	}
	u.answerBlob(b.Digest)
	return nil
}

// record makes the blob known as the repository's.
func (u *upload) record(b pulp.Blob) error {
	err := u.blobs.Record(u.r.Context(), b, func(ctx context.Context) error {
		return u.Store.CommitBlob(ctx, u.row.RepositoryID, b, u.row.ID, u.row.Epoch)
	}, func(ctx context.Context) error {
		_, err := u.Store.DeleteBlob(ctx, u.row.RepositoryID, b.Digest)
		if fault.Is(err, fault.NotFound) {
			return nil
		}
		return err
	})
	if fault.Is(err, fault.NotFound) {
		return u.uploadUnknown()
	}
	return err
}
