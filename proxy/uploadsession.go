package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/uploads"
	"github.com/countersign/countersign/storage"
)

// upload is one request's hold on an upload.
type upload struct {
	*call
	row    uploads.Upload  // ID is empty for a blob that comes whole
	acked  int64           // bytes that earlier requests were told are safe
	writer storage.Upload  // where the bytes go once they are many; nil before
	torn   bool            // the storage failed: what it has of this request's bytes is not known
	claim  *uploads.Upload // the row to put back when the request leaves the upload without moving it on; nil without a claim
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
		return nil, c.uploadUnknown() // a client comes here when its earlier request was cut off; it starts the blob again
	}
	return &upload{call: c, row: row, acked: row.Size}, nil
}

// within is the name under which the storage gets the bytes.
func (u *upload) within() string { return pulp.UpstreamName(u.row.Repository, u.row.RepositoryID) }

// leave ends the request's hold on the upload.
func (u *upload) leave() {
	if u.claim != nil {
		ctx := context.WithoutCancel(u.r.Context())
		if _, err := u.Store.Uploads.SaveUpload(ctx, *u.claim); err != nil && !fault.Is(err, fault.NotFound) {
			u.Log.WarnContext(ctx, "the claim on an upload stays; its client has to start again", slog.String("upload", u.row.ID), slog.Any("err", err))
		}
	}
	if u.row.ID != "" {
		u.writers.release(u.row.ID)
	}
}

// claimSession keeps requests at other processes from writing to the upload at the same time. Only a storage that is a registry needs that: it has one
// session for all writers of an upload, and may let a late write change a blob that is committed already. Other storages give each writer a file of its own.
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

// append adds all of a body to the upload: to the bytes in the row while they are few, else to the storage.
func (u *upload) append(body *bodyReader) error {
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
	u.writer, err = u.Storage.Resume(ctx, u.within(), u.row.StorageRef, u.row.Size)
	if errors.Is(err, storage.ErrNotFound) {
		u.abandon()
		return u.uploadUnknown()
	}
	return err
}

// save writes down how far the upload is, for the next request.
func (u *upload) save(ctx context.Context) error {
	first := u.row.StorageRef == ""
	if u.writer != nil {
		u.row.StorageRef, u.row.Size = u.writer.Ref(), u.writer.Size()
	}
	epoch, err := u.Store.Uploads.SaveUpload(ctx, u.row)
	if err != nil {
		switch moved := fault.Is(err, fault.NotFound); {
		case u.writer == nil:
		case first && moved: // no row names these bytes
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

// abandon ends the upload and drops its bytes, unless a request at another process has moved it on: then they are that one's.
func (u *upload) abandon() {
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
			u.Log.WarnContext(ctx, "an upload stays open until it is swept", slog.String("upload", u.row.ID), slog.Any("err", err))
		}
	}
	u.drop(ctx)
}

// drop removes the bytes that the storage has of the upload.
func (u *upload) drop(ctx context.Context) {
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
	u.claim = nil
	u.answerBlob(b.Digest)
	return nil
}

// record makes the blob known as the repository's.
func (u *upload) record(b pulp.Blob) error {
	err := u.blobs.Record(u.r.Context(), b, func(ctx context.Context) error {
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
