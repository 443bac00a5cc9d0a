// Package ingest stores content that comes from outside: blobs, signatures after their validation, and blobs whose
// bytes a sync has left at the remote, when a client requests them.
//
// A blob's bytes are stored before its row, so that a crash at any point leaves no row without bytes. Pushes, syncs
// and pulls of absent blobs all use this package.
package ingest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/retry"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/storage"
)

// Blobs stores blobs.
type Blobs struct {
	Storage storage.Storage
	// Inline is the maximum size in bytes of a blob in the database; 0 means that all blobs are in the storage.
	Inline int64
	// Foreign says that the storage is another registry: this server does not delete blobs there.
	Foreign bool
}

// ErrRemoved says that the removal of an older copy of a blob has removed the new bytes too. The client must send
// them again.
var ErrRemoved = fault.New(fault.Unavailable, "An older copy of the blob was just removed; push it again.")

// Receive reads a blob to its end and stores its bytes: in the result if there are at most Inline, otherwise in the
// storage under the name of a repository. The caller writes the row with Record. It returns storage.ErrDigest if the
// bytes do not match the digest, and errors of the reader unchanged.
func (i Blobs) Receive(ctx context.Context, name string, d digest.Digest, from io.Reader) (pulp.Blob, error) {
	head, err := io.ReadAll(io.LimitReader(from, i.Inline+1))
	if err != nil {
		return pulp.Blob{}, err
	}
	if int64(len(head)) <= i.Inline && i.Inline > 0 {
		if d.Algorithm().FromBytes(head) != d {
			return pulp.Blob{}, storage.ErrDigest
		}
		return pulp.Blob{Digest: d, Size: int64(len(head)), Data: head, Inline: true}, nil
	}
	u, err := i.Storage.Create(ctx, name)
	if err != nil {
		return pulp.Blob{}, err
	}
	if _, err = u.ReadFrom(io.MultiReader(bytes.NewReader(head), from)); err == nil {
		size := u.Size()
		if err = u.Commit(ctx, d); err == nil {
			return pulp.Blob{Digest: d, Size: size, Location: name}, nil
		}
	}
	if !errors.Is(err, storage.ErrDigest) { // Commit has ended the upload otherwise
		_ = u.Cancel(context.WithoutCancel(ctx))
	}
	_ = u.Close()
	return pulp.Blob{}, err
}

// EmptyLayer returns the empty layer as a blob under the name of a repository. It uploads the layer to an upstream
// that does not have it there. The caller writes the row with Record.
func (i Blobs) EmptyLayer(ctx context.Context, name string) (pulp.Blob, error) {
	if i.Foreign {
		size, err := i.Storage.Stat(ctx, name, pulp.EmptyLayer)
		if !errors.Is(err, storage.ErrNotFound) {
			return pulp.Blob{Digest: pulp.EmptyLayer, Size: size, Location: name}, err
		}
	}
	return i.Receive(ctx, name, pulp.EmptyLayer, bytes.NewReader(pulp.EmptyLayerContent()))
}

// whileDeleting is how long, and how often, Record waits for the removal of an older copy of the same blob.
var whileDeleting = retry.Policy{Elapsed: 10 * time.Second, First: 50 * time.Millisecond, Max: 50 * time.Millisecond}

// Record calls write, which writes the row of a blob whose bytes are stored. It waits while an older copy of the blob
// is being removed. It returns ErrRemoved if that removal took the new bytes too, after undo, unless that is nil, has
// deleted the row.
func (i Blobs) Record(
	ctx context.Context, b pulp.Blob, write func(context.Context, pulp.Blob) error, undo func(context.Context) error,
) error {
	err := retry.Run(ctx, whileDeleting, func(ctx context.Context) error {
		err := i.recordOver(ctx, b, write)
		if errors.Is(err, content.ErrDeleting) {
			return err
		}
		return retry.Permanent(err)
	})
	switch {
	case errors.Is(err, content.ErrDeleting):
		return fault.New(fault.Unavailable, "An older copy of the blob is being removed; push it again.")
	case err != nil:
		return err
	}
	return i.confirm(context.WithoutCancel(ctx), b, undo)
}

// recordOver calls write. If the blob is absent, it checks that the bytes are in the storage after that began, since they
// may have gone with the older copy, and calls write again.
func (i Blobs) recordOver(ctx context.Context, b pulp.Blob, write func(context.Context, pulp.Blob) error) error {
	for {
		err := write(ctx, b)
		absent, ok := errors.AsType[*content.NotStoredError](err)
		if !ok {
			return err
		}
		_, err = i.Storage.Stat(ctx, b.Location, b.Digest)
		if errors.Is(err, storage.ErrNotFound) {
			return ErrRemoved
		}
		if err != nil {
			return err
		}
		b.AbsentSince = absent.Since
	}
}

// confirm checks that the bytes of a recorded blob exist. The removal of an older copy that ends between the commit
// in the storage and the row removes them and leaves no trace in the database. Once the row exists nothing removes
// them.
func (i Blobs) confirm(ctx context.Context, b pulp.Blob, undo func(context.Context) error) error {
	if b.Inline || i.Foreign {
		return nil
	}
	_, err := i.Storage.Stat(ctx, b.Location, b.Digest)
	if !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	if undo == nil {
		return ErrRemoved
	}
	return errors.Join(ErrRemoved, undo(ctx))
}

// Open returns the bytes of a blob that is not absent. It returns an Unavailable error if the storage has lost them.
func (i Blobs) Open(ctx context.Context, b pulp.Blob) (io.ReadSeekCloser, error) {
	if b.Inline {
		return nopCloser{bytes.NewReader(b.Data)}, nil
	}
	content, _, err := i.Storage.Open(ctx, b.Location, b.Digest)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, fault.Wrap(fault.Unavailable, err, "The storage has lost the blob.")
	}
	return content, err
}

type nopCloser struct{ io.ReadSeeker }

// Close does nothing.
func (nopCloser) Close() error { return nil }
