// Package ingest takes content in that comes from outside: a blob's bytes into the storage and then its row into the database, in the order
// that a crash may interrupt anywhere, and signatures after judging them.
//
// Pushes, syncs and pulls of what a remote has yet to send all go through here.
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
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/storage"
)

// Blobs takes blobs in.
type Blobs struct {
	Storage storage.Storage
	// Inline is how many bytes a blob may have to be kept in the database; 0 keeps all in the storage.
	Inline int64
	// Foreign says that the storage is a registry of its own: nobody here removes its bytes.
	Foreign bool
}

// ErrRemoved says that the removal of an older copy of a blob has taken the new bytes along: send them again.
var ErrRemoved = fault.New(fault.Unavailable, "An older copy of the blob was just removed; push it again.")

// Receive reads a blob to its end and keeps its bytes: in what it returns while they are few, else in the storage, under a repository's name. Its row is
// the caller's to write, through Record. storage.ErrDigest when the bytes are not the digest's; errors of the reader are returned as they are.
func (i Blobs) Receive(ctx context.Context, name string, d digest.Digest, from io.Reader) (pulp.Blob, error) {
	few, err := io.ReadAll(io.LimitReader(from, i.Inline+1))
	if err != nil {
		return pulp.Blob{}, err
	}
	if int64(len(few)) <= i.Inline && i.Inline > 0 {
		if d.Algorithm().FromBytes(few) != d {
			return pulp.Blob{}, storage.ErrDigest
		}
		return pulp.Blob{Digest: d, Size: int64(len(few)), Data: few, Inline: true}, nil
	}
	u, err := i.Storage.Create(ctx, name)
	if err != nil {
		return pulp.Blob{}, err
	}
	if _, err = u.ReadFrom(io.MultiReader(bytes.NewReader(few), from)); err == nil {
		size := u.Size()
		if err = u.Commit(ctx, d); err == nil {
			return pulp.Blob{Digest: d, Size: size, Location: name}, nil
		}
	}
	if !errors.Is(err, storage.ErrDigest) { // then it is gone already
		_ = u.Cancel(context.WithoutCancel(ctx))
	}
	_ = u.Close()
	return pulp.Blob{}, err
}

// EmptyLayer returns the empty layer as a blob under a repository's name; an upstream that does not have it there gets it. Its row is the caller's to
// write, through Record.
func (i Blobs) EmptyLayer(ctx context.Context, name string) (pulp.Blob, error) {
	if i.Foreign {
		size, err := i.Storage.Stat(ctx, name, pulp.EmptyLayer)
		if !errors.Is(err, storage.ErrNotFound) {
			return pulp.Blob{Digest: pulp.EmptyLayer, Size: size, Location: name}, err
		}
	}
	return i.Receive(ctx, name, pulp.EmptyLayer, bytes.NewReader(pulp.EmptyLayerContent()))
}

// How long a row waits for the removal of an older copy of the same blob.
const (
	deletingWait  = 50 * time.Millisecond
	deletingTries = 200
)

// Record writes a blob's row, whose bytes are safe, by a function. While an older copy is just being removed it waits for the end of that. ErrRemoved when the
// removal took the bytes along: they have to be sent again, and the row, which is written, is taken back by undo, when that is not nil.
func (i Blobs) Record(ctx context.Context, b pulp.Blob, write, undo func(context.Context) error) error {
	for range deletingTries {
		err := write(ctx)
		if err == nil {
			return i.confirm(context.WithoutCancel(ctx), b, undo)
		}
		if !errors.Is(err, store.ErrDeleting) {
			return err
		}
		select {
		case <-time.After(deletingWait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return fault.New(fault.Unavailable, "An older copy of the blob is being removed; push it again.")
}

// confirm sees that a recorded blob's bytes are there: the removal of an older copy, ended between the storage's commit and the row, takes them
// along, and leaves no trace in the database. From the row on nothing removes them.
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

// Open returns the bytes of a blob that is not absent.
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
