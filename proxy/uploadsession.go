package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/uploads"
	"github.com/countersign/countersign/storage"
)

// upload is an upload session that one request has exclusive access to. The row of the upload contains the bytes as
// long as they are few; then the storage does.
type upload struct {
	*call
	row           uploads.Upload  // ID is empty for a blob in one POST, which has no session
	acked         int64           // bytes that earlier requests acknowledged
	writer        storage.Upload  // the writer of the storage; nil while it is not open
	storageFailed bool            // the storage failed; its number of bytes is unknown
	claim         *uploads.Upload // the row to restore if the request does not advance the upload; nil without a claim
}

// openUpload gives the request exclusive access to its upload. The caller must call release.
func (c *call) openUpload() (*upload, error) {
	t, err := c.writableTarget(access.Push)
	if err != nil {
		return nil, err
	}
	if !pulp.ValidUUID(c.ref) {
		return nil, c.uploadUnknown()
	}
	if !c.writers.acquire(c.ref) {
		return nil, newError(http.StatusConflict, "BLOB_UPLOAD_INVALID", "Another request writes to this upload.", nil)
	}
	row, err := c.Store.Uploads.Upload(c.r.Context(), t.Repository.ID, c.ref)
	if err != nil {
		c.writers.release(c.ref)
		if fault.Is(err, fault.NotFound) {
			return nil, c.uploadUnknown()
		}
		return nil, err
	}
	if row.Claimed && c.r.Method != http.MethodDelete {
		c.writers.release(c.ref)
		return nil, c.uploadUnknown() // an earlier request of the client was interrupted; the client starts a new upload
	}
	return &upload{call: c, row: row, acked: row.Size}, nil
}

// storageName returns the name of the upload's repository in the storage.
func (u *upload) storageName() string { return pulp.UpstreamName(u.row.Repository, u.row.RepositoryID) }

// release ends the exclusive access to the upload.
func (u *upload) release() {
	if u.claim != nil {
		ctx := context.WithoutCancel(u.r.Context())
		if _, err := u.Store.Uploads.SaveUpload(ctx, *u.claim); err != nil && !fault.Is(err, fault.NotFound) {
			u.Log.WarnContext(
				ctx,
				"cannot release the claim on an upload; the client must start it again",
				slog.String("upload", u.row.ID),
				slog.Any("err", err),
			)
		}
	}
	if u.row.ID != "" {
		u.writers.release(u.row.ID)
	}
}

// claimSession excludes requests to other servers from the upload. Only an upstream registry needs that: it has one
// session for all writers of an upload, and a late write may change a committed blob. Other storages have a file per
// writer.
func (u *upload) claimSession(ctx context.Context) error {
	if !u.blobs.Foreign || u.claim != nil {
		return nil
	}
	epoch, err := u.Store.Uploads.ClaimUpload(ctx, u.row)
	if fault.Is(err, fault.NotFound) {
		return u.uploadUnknown()
	} else if err != nil {
		return err
	}
	u.row.Epoch = epoch
	before := u.row
	u.claim = &before
	return nil
}

// append appends a body to the upload: to the row as long as all bytes fit into InlineLimit, else to the storage.
func (u *upload) append(body *bodyReader) error {
	var from io.Reader = body
	if u.row.StorageRef == "" && u.writer == nil && u.row.Size+u.InlineLimit > 0 {
		few, err := io.ReadAll(io.LimitReader(body, u.InlineLimit+1-u.row.Size))
		u.row.Data = append(u.row.Data, few...)
		u.row.Size = int64(len(u.row.Data))
		if err != nil {
			return u.incompleteBody(err)
		}
		if u.row.Size <= u.InlineLimit && u.InlineLimit > 0 {
			return nil
		}
		from = io.MultiReader(bytes.NewReader(u.row.Data), body)
	}
	if err := u.openWriter(); err != nil {
		return err
	}
	if body.Left() == 0 && u.row.StorageRef != "" { // most PUT requests have an empty body
		return nil
	}
	_, err := u.writer.ReadFrom(from)
	u.row.Size = u.writer.Size()
	if errors.Is(err, storage.ErrNotFound) {
		u.abort()
		return u.uploadUnknown()
	}
	if err != nil && body.failed != nil && !fault.Is(err, fault.Unavailable) {
		return u.incompleteBody(err)
	}
	u.storageFailed = err != nil
	return err
}

// openWriter opens the writer of the storage: the idle one of the previous request if it is at the position of the row,
// else a new one.
func (u *upload) openWriter() error {
	// The writer outlives the request.
	ctx := context.WithoutCancel(u.r.Context())
	var err error
	if u.writer != nil {
		return nil
	}
	if u.row.StorageRef == "" {
		u.writer, err = u.Storage.Create(ctx, u.storageName())
		return err
	}
	kept := u.writers.take(u.row.ID, u.row.Epoch, u.row.Size)
	if err := u.claimSession(ctx); err != nil {
		if kept != nil {
			_ = kept.Close()
		}
		return err
	}
	if u.writer = kept; kept != nil {
		return nil
	}
	u.writer, err = u.Storage.Resume(ctx, u.storageName(), u.row.StorageRef, u.row.Size)
	if errors.Is(err, storage.ErrNotFound) {
		u.abort()
		return u.uploadUnknown()
	}
	return err
}

// save stores the state of the upload in its row, and keeps the writer for the next request.
func (u *upload) save(ctx context.Context) error {
	first := u.row.StorageRef == ""
	if u.writer != nil {
		u.row.StorageRef, u.row.Size = u.writer.Ref(), u.writer.Size()
	}
	epoch, err := u.Store.Uploads.SaveUpload(ctx, u.row)
	if err != nil {
		switch moved := fault.Is(err, fault.NotFound); {
		case u.writer == nil:
		case first && moved: // no row references these bytes
			_ = u.writer.Cancel(context.WithoutCancel(ctx))
		default:
			_ = u.writer.Close()
		}
		if fault.Is(err, fault.NotFound) {
			return u.uploadUnknown()
		}
		return err
	}
	u.row.Epoch, u.claim = epoch, nil
	if u.writer != nil {
		u.writers.keep(u.row.ID, u.client(), epoch, u.writer)
	}
	return nil
}

// savePartial saves the bytes of an interrupted chunk, so that the client need not send them again. It never risks
// acknowledged bytes: if the storage failed or has no new bytes, the row does not change, and the next Resume
// discards the bytes after the position of the row.
func (u *upload) savePartial() {
	ctx := context.WithoutCancel(u.r.Context())
	switch {
	case u.writer != nil && u.row.StorageRef == "" && (u.storageFailed || u.writer.Size() <= u.acked):
		_ = u.writer.Cancel(ctx) // the row contains all acknowledged bytes
		return
	case u.storageFailed:
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
		u.Log.DebugContext(ctx, "cannot save a partial chunk", slog.String("upload", u.row.ID), slog.Any("err", err))
	}
}

// abort ends the upload and discards its bytes, unless a request to another server has advanced it since: then it only
// closes the writer.
func (u *upload) abort() {
	ctx := context.WithoutCancel(u.r.Context())
	if u.row.ID != "" {
		err := u.Store.Uploads.EndUpload(ctx, u.row)
		switch {
		case fault.Is(err, fault.NotFound) && u.row.StorageRef != "":
			u.claim = nil
			if u.writer != nil {
				_ = u.writer.Close()
			}
			return
		case err == nil:
			u.claim = nil
		case !fault.Is(err, fault.NotFound):
			u.Log.WarnContext(
				ctx,
				"cannot end an upload; orphan cleanup removes it later",
				slog.String("upload", u.row.ID),
				slog.Any("err", err),
			)
		}
	}
	u.discard(ctx)
}

// discard removes the bytes of the upload from the storage.
func (u *upload) discard(ctx context.Context) {
	if u.writer == nil && u.row.StorageRef != "" && u.row.ID != "" {
		if u.writer = u.writers.take(u.row.ID, u.row.Epoch, u.row.Size); u.writer == nil {
			u.writer, _ = u.Storage.Resume(
				ctx,
				u.storageName(),
				u.row.StorageRef,
				u.row.Size,
			) // nothing to cancel if it fails
		}
	}
	if u.writer != nil {
		if err := u.writer.Cancel(ctx); err != nil {
			u.Log.WarnContext(ctx, "cannot remove the bytes of an upload from the storage", slog.Any("err", err))
		}
	}
}

// commit commits the upload as the blob with the given digest and sends the response. A wrong digest ends the upload
// too: see compatibility.md#wrong-digests.
func (u *upload) commit(dgst digest.Digest) error {
	if u.writer == nil && u.row.StorageRef != "" {
		if err := u.openWriter(); err != nil {
			return err
		}
	}
	b := pulp.Blob{Digest: dgst, Size: u.row.Size, Location: u.storageName()}
	if u.writer == nil {
		b.Inline, b.Data = true, u.row.Data
		if dgst.Algorithm().FromBytes(b.Data) != dgst {
			u.abort()
			return digestInvalid(string(dgst))
		}
	} else {
		b.Size = u.writer.Size()
		err := u.writer.Commit(u.r.Context(), dgst)
		if errors.Is(err, storage.ErrDigest) {
			u.writer = nil
			u.row.StorageRef = ""
			u.abort()
			return digestInvalid(string(dgst))
		} else if errors.Is(err, storage.ErrNotFound) && u.row.ID != "" {
			u.abort()
			return u.uploadUnknown()
		} else if err != nil {
			if u.row.ID == "" { // no client can resume it
				u.abort()
			}
			_ = u.writer.Close()
			return err
		}
	}
	return u.finish(b)
}

// finish adds a blob that the storage has committed to the repository, and sends the response.
func (u *upload) finish(b pulp.Blob) error {
	err := u.record(b)
	u.audit("push blob", err, slog.String("digest", string(b.Digest)), slog.Int64("size", b.Size))
	if err != nil {
		return err
	}
	u.claim = nil
	u.writeBlobCreated(b.Digest)
	return nil
}

// record adds the blob to the repository and ends the upload, in one transaction.
func (u *upload) record(b pulp.Blob) error {
	err := u.blobs.Record(u.r.Context(), b, func(ctx context.Context, b pulp.Blob) error {
		return u.Store.Content.CommitBlob(ctx, u.row.RepositoryID, b, u.row.ID, u.row.Epoch)
	}, func(ctx context.Context) error {
		_, err := u.Store.Content.DeleteBlob(ctx, u.row.RepositoryID, b.Digest)
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
