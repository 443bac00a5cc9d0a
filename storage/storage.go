// Package storage is the interface to the storage registry. It stores the bytes of blobs, and, if the storage is a
// registry of its own (upstream mode), manifests and tags too.
//
// It knows digests and names, but not repositories, versions, users or HTTP requests. Its callers implement the rules
// of the registry protocol: ranges, ownership of uploads, limits. The implementations are storage/embedded and
// storage/upstream; both pass the tests of storage/storagetest.
package storage

import (
	"context"
	"errors"
	"io"

	"github.com/opencontainers/go-digest"
)

// Errors of a Storage, wrapped or bare. A storage that does not answer returns an outage of internal/fault.
var (
	// ErrNotFound says that the storage has no such blob, upload, manifest or tag.
	ErrNotFound = errors.New("not in storage")
	// ErrDigest says that the bytes do not match the digest of a commit. The upload is gone.
	ErrDigest = errors.New("bytes do not match the digest")
	// ErrUnsupported says that the storage cannot do this, such as an upstream that cannot store sha512 digests.
	ErrUnsupported = errors.New("not supported by the storage")
)

// Storage stores blobs by digest. A name is the path of a repository, under which an upstream stores them; embedded
// storage stores each blob once and ignores the name. All methods are safe for concurrent use. They check no
// permissions.
type Storage interface {
	// Stat returns the size of a blob in bytes, or ErrNotFound.
	Stat(ctx context.Context, name string, dgst digest.Digest) (int64, error)
	// Open returns the bytes of a blob and its size, or ErrNotFound. The reader may be an *os.File, which the kernel
	// can send. The caller closes it.
	Open(ctx context.Context, name string, dgst digest.Digest) (io.ReadSeekCloser, int64, error)
	// Create starts an upload.
	Create(ctx context.Context, name string) (Upload, error)
	// Resume continues an upload from its Ref, which may come from another process. offset is the number of
	// acknowledged bytes; bytes after it, of a write that was not acknowledged, are ignored. It returns ErrNotFound
	// if there is no such upload or it has fewer bytes. Several uploads may continue one Ref while earlier ones still
	// write. In embedded storage they share no bytes. An upstream has one session for all of them: its callers must
	// not let two write at the same time.
	Resume(ctx context.Context, name, ref string, offset int64) (Upload, error)
	// Mount makes a blob of the name from available under name too. Embedded storage only checks that the blob exists.
	Mount(ctx context.Context, from, name string, dgst digest.Digest) error
	// Delete deletes the bytes of a blob. It returns nil if the blob does not exist.
	Delete(ctx context.Context, name string, dgst digest.Digest) error
	// Ping returns an error unless the storage answers.
	Ping(ctx context.Context) error
}

// Upload is a blob that is being written. One goroutine uses it at a time. Close releases its resources in this
// process and leaves the written bytes for a later Resume; after Commit or Cancel it has no effect.
type Upload interface {
	// ReadFrom appends all bytes of r. When it returns, the bytes have left the buffers of this process. After an
	// error some of them may be in the upload; Size says how many.
	io.ReaderFrom
	io.Closer
	// Ref returns the reference for Resume. It may change with every ReadFrom: an upstream may move its session.
	Ref() string
	// Size returns the number of bytes in the upload.
	Size() int64
	// Commit ends the upload and stores its bytes durably under a sha256 or sha512 digest. It returns ErrDigest if
	// the bytes do not match. It does not replace a stored blob, unless the bytes of that do not match the digest; no
	// later write of any upload changes a stored blob.
	Commit(ctx context.Context, dgst digest.Digest) error
	// Cancel ends the upload and deletes its bytes.
	Cancel(ctx context.Context) error
}

// Part is the range of a blob's bytes that a client requests: from First to Last, both counted from 0, of Size bytes.
type Part struct{ Size, First, Last int64 }

// Whole reports whether the part is the whole blob.
func (p Part) Whole() bool { return p.First == 0 && p.Last == p.Size-1 }

// Counted is a reader that knows how many bytes it still has; -1 means that it does not. An upstream gets the length
// if it is known.
type Counted interface{ Left() int64 }

// Finisher is implemented by uploads that can append their last bytes and end in one step.
type Finisher interface {
	// Finish appends all bytes of r and commits, as ReadFrom and then Commit. After an error only Cancel has an effect.
	Finish(ctx context.Context, r io.Reader, dgst digest.Digest) error
}

// Manifests is implemented by storages that are registries of their own (storage/upstream). The server writes
// manifests and tags through to such a storage under their own names, so that it stays a complete registry.
type Manifests interface {
	// PutManifest stores exact bytes under a reference, a digest or a tag. It is idempotent.
	PutManifest(ctx context.Context, name, reference, mediaType string, payload []byte) error
	// GetManifest returns the exact bytes, at most 4 MiB, and the media type, or ErrNotFound.
	GetManifest(ctx context.Context, name, reference string) (payload []byte, mediaType string, err error)
	// DeleteManifest deletes a manifest by digest, or a tag. It returns nil if the reference does not exist, and
	// ErrUnsupported if the upstream does not delete.
	DeleteManifest(ctx context.Context, name, reference string) error
	// Resolve returns the digest of the manifest that a tag or a digest references, for a request with these Accept
	// headers; without any it accepts every type of manifest. It returns ErrNotFound if there is none.
	Resolve(ctx context.Context, name, reference string, accept ...string) (digest.Digest, error)
	// Tags returns all tags of a name in the order of the upstream, or ErrNotFound if it has no such name.
	Tags(ctx context.Context, name string) ([]string, error)
	// Referrers returns the digests of a manifest's referrers, or ErrUnsupported if the upstream does not list them.
	Referrers(ctx context.Context, name string, subject digest.Digest) ([]digest.Digest, error)
	// Catalog returns the names of all repositories, or ErrUnsupported if the upstream does not list them.
	Catalog(ctx context.Context) ([]string, error)
}
