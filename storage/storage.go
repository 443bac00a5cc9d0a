// Package storage is the door to the storage registry: it keeps the bytes of blobs, and, where the storage is a whole
// registry of its own (upstream mode), manifests and tags too.
//
// It knows digests and names, not repositories, versions, users or HTTP requests. Rules of the registry protocol (ranges,
// who owns an upload, limits) live above this door. Its makers are storage/embedded and storage/upstream; both pass
// storage/storagetest.
package storage

import (
	"context"
	"errors"
	"io"

	"github.com/opencontainers/go-digest"
)

// Errors that a Storage returns, wrapped or bare.
var (
	// ErrNotFound says that the storage holds no such blob, upload, manifest or tag.
	ErrNotFound = errors.New("not in storage")
	// ErrDigest says that the bytes are not those of the digest they were committed under. The upload is gone.
	ErrDigest = errors.New("bytes do not match the digest")
	// ErrUnsupported says that this storage cannot keep what was asked of it (an upstream without sha512, say).
	ErrUnsupported = errors.New("not supported by the storage")
)

// Storage keeps blobs by digest. Names are the repositories' paths under which an upstream keeps them; embedded storage
// keeps each blob once, whatever the name. All methods are safe for concurrent use. A caller has decided who may see what.
type Storage interface {
	// Stat returns the size in bytes of a blob, or ErrNotFound.
	Stat(ctx context.Context, name string, dgst digest.Digest) (int64, error)
	// Open returns a blob's bytes and its size. The reader may also be an *os.File, which lets the kernel send it.
	// The caller closes it. ErrNotFound when there is none.
	Open(ctx context.Context, name string, dgst digest.Digest) (io.ReadSeekCloser, int64, error)
	// Create begins an upload.
	Create(ctx context.Context, name string) (Upload, error)
	// Resume takes up an upload that Create began, in this process or another, from its Ref; offset is how many bytes the
	// caller knows to be in it. ErrNotFound when there is no such upload or it holds fewer bytes; bytes behind offset
	// (of a write that was never acknowledged) do not count. Several uploads may come of one Ref, while earlier ones still
	// write. In embedded storage they share no bytes. An upstream has one session for all: the caller keeps them apart.
	Resume(ctx context.Context, name, ref string, offset int64) (Upload, error)
	// Mount makes a blob that lies under from available under name too. Embedded storage only checks that it is there.
	Mount(ctx context.Context, from, name string, dgst digest.Digest) error
	// Delete removes a blob's bytes. Deleting what is not there is no error.
	Delete(ctx context.Context, name string, dgst digest.Digest) error
	// Ping says whether the storage answers.
	Ping(ctx context.Context) error
}

// Upload is a blob on its way in. It is used by one goroutine at a time. Close releases what it holds in this process and
// leaves the bytes that were written for a later Resume; after Commit or Cancel, Close does nothing.
type Upload interface {
	// ReadFrom appends all bytes of r. When it returns, the bytes have left this process's buffers. On an error some of
	// them may be in the upload; Size tells how many.
	io.ReaderFrom
	io.Closer
	// Ref is what Resume needs. It may change with every ReadFrom (an upstream hands out a new location each time).
	Ref() string
	// Size is how many bytes the upload holds.
	Size() int64
	// Commit ends the upload and keeps its bytes under the digest, durably. ErrDigest when they are not that digest's bytes.
	// A blob that is stored under the digest stays, unless its bytes are not the digest's; no later write of any upload
	// changes a stored blob.
	// Digests are sha256 and sha512.
	Commit(ctx context.Context, dgst digest.Digest) error
	// Cancel ends the upload and drops its bytes.
	Cancel(ctx context.Context) error
}

// Part is what is wanted of a blob: the bytes from First to Last, both counted from 0, of so many.
type Part struct{ Size, First, Last int64 }

// Whole says whether that is all of the blob.
func (p Part) Whole() bool { return p.First == 0 && p.Last == p.Size-1 }

// Counted is a reader that may know how many bytes it still has; -1: it does not. An upstream is told, where it is known.
type Counted interface{ Left() int64 }

// Finisher is the further power of an upload that can take its last bytes and end with them at once.
type Finisher interface {
	// Finish appends all bytes of r and commits, as ReadFrom and then Commit. After an error the upload can only be canceled.
	Finish(ctx context.Context, r io.Reader, dgst digest.Digest) error
}

// Manifests is the further power of a storage that is a registry of its own: in front of such a storage, manifests and tags
// are written through under their own names, so that it stays a complete registry. storage/upstream has it, storage/embedded
// has not.
type Manifests interface {
	// PutManifest stores exact bytes under a reference, a digest or a tag. Idempotent.
	PutManifest(ctx context.Context, name, reference, mediaType string, payload []byte) error
	// GetManifest returns the exact bytes and the media type, at most 4 MiB. ErrNotFound when there is none.
	GetManifest(ctx context.Context, name, reference string) (payload []byte, mediaType string, err error)
	// DeleteManifest removes a manifest by digest, or a tag. What is not there is no error; ErrUnsupported when the
	// upstream does not delete.
	DeleteManifest(ctx context.Context, name, reference string) error
	// Resolve returns the digest that a tag stands for, or the digest itself where there is such a manifest, to a client with these Accept headers; without
	// any it asks for every type of manifest. ErrNotFound when there is none.
	Resolve(ctx context.Context, name, reference string, accept ...string) (digest.Digest, error)
	// Tags returns all tags of a name, in the upstream's order. ErrNotFound when it knows no such name.
	Tags(ctx context.Context, name string) ([]string, error)
	// Referrers returns the digests of the manifests that refer to one. ErrUnsupported when the upstream does not list them.
	Referrers(ctx context.Context, name string, subject digest.Digest) ([]digest.Digest, error)
	// Catalog returns the names of all repositories. ErrUnsupported when the upstream does not list them.
	Catalog(ctx context.Context) ([]string, error)
}
