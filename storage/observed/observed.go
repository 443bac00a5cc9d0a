// Package observed wraps a storage and reports its operations: how long they take, and how they end.
//
// The wrapper implements the optional interfaces of the storage: storage.Manifests and the reading of parts if it is an
// upstream, the sweep of uploads if it is embedded, and storage.Finisher of uploads.
package observed

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/telemetry"
	"github.com/countersign/countersign/storage"
)

// Result is the result of an operation.
type Result string

// The results of operations. An answer that something does not exist is OK. Operations that a caller breaks off are not
// reported.
const (
	OK      Result = "ok"
	Refused Result = "refused" // the bytes do not match their digest, or an upstream does not accept them
	Failed  Result = "error"
)

// Results returns all results.
func Results() []Result { return []Result{OK, Refused, Failed} }

// Func receives the operations of a storage.
type Func func(operation string, result Result, took time.Duration)

// Operations of all storages.
const (
	opStat   = "stat"
	opOpen   = "open"
	opCreate = "create"
	opResume = "resume"
	opWrite  = "write" // without the time in which the client sends the bytes
	opCommit = "commit"
	opCancel = "cancel"
	opMount  = "mount"
	opDelete = "delete"
	opPing   = "ping"
)

// opSweep is an operation of embedded storage.
const opSweep = "sweep"

// Operations of an upstream.
const (
	opPutManifest    = "put_manifest"
	opGetManifest    = "get_manifest"
	opDeleteManifest = "delete_manifest"
	opResolve        = "resolve"
	opTags           = "list_tags"
	opReferrers      = "list_referrers"
	opCatalog        = "list_repositories"
)

// Operations returns the operations of embedded storage, or those of an upstream.
func Operations(upstream bool) []string {
	all := []string{opStat, opOpen, opCreate, opResume, opWrite, opCommit, opCancel, opMount, opDelete, opPing}
	if !upstream {
		return append(all, opSweep)
	}
	return append(all, opPutManifest, opGetManifest, opDeleteManifest, opResolve, opTags, opReferrers, opCatalog)
}

// upstreamStorage is a storage that is a registry of its own.
type upstreamStorage interface {
	storage.Storage
	storage.Manifests
	partReader
}

// partReader is implemented by storages with expensive requests.
type partReader interface {
	OpenPart(ctx context.Context, name string, dgst digest.Digest, part storage.Part) (io.ReadSeekCloser, error)
	Locate(ctx context.Context, name string, dgst digest.Digest, part storage.Part) (string, io.ReadSeekCloser, error)
}

// embeddedStorage is a storage of the server's own.
type embeddedStorage interface {
	storage.Storage
	SweepUploads(ctx context.Context, before time.Time) error
}

// New returns a storage that reports the operations of s.
func New(s storage.Storage, report Func) storage.Storage {
	base := wrapper{s, report}
	switch s := s.(type) {
	case upstreamStorage:
		return &upstream{base, s}
	case embeddedStorage:
		return &embedded{base, s}
	}
	return &base
}

// resultOf returns the result for the error of an operation, whose context may be nil. ok is false if the caller broke the
// operation off.
func resultOf(ctx context.Context, err error) (result Result, ok bool) {
	switch {
	case err == nil || errors.Is(err, storage.ErrNotFound):
		return OK, true
	case ctx != nil && ctx.Err() != nil || errors.Is(err, context.Canceled):
		return "", false
	case errors.Is(err, storage.ErrDigest), errors.Is(err, storage.ErrUnsupported),
		fault.Is(err, fault.Invalid), fault.Is(err, fault.TooLarge), fault.Is(err, fault.Conflict):
		return Refused, true
	}
	return Failed, true
}

// operation is an operation that is running.
type operation struct {
	ctx    context.Context // nil if the operation has none
	span   *telemetry.Span
	name   string
	began  time.Time
	report Func
}

func (w *wrapper) begin(ctx context.Context, name string) operation {
	_, span := telemetry.StartSpan(ctx, telemetry.KindInternal, "storage "+name)
	return operation{ctx, span, name, time.Now(), w.report}
}

// end reports the operation.
func (o operation) end(err error) {
	result, ok := resultOf(o.ctx, err)
	if ok {
		o.report(o.name, result, time.Since(o.began))
	}
	if ok && result != OK {
		o.span.Fail(string(result))
	}
	o.span.End(nil)
}

// wrapper implements storage.Storage.
type wrapper struct {
	next   storage.Storage
	report Func
}

// Stat implements storage.Storage.
func (w *wrapper) Stat(ctx context.Context, name string, dgst digest.Digest) (int64, error) {
	o := w.begin(ctx, opStat)
	size, err := w.next.Stat(ctx, name, dgst)
	o.end(err)
	return size, err
}

// Open implements storage.Storage.
func (w *wrapper) Open(ctx context.Context, name string, dgst digest.Digest) (io.ReadSeekCloser, int64, error) {
	o := w.begin(ctx, opOpen)
	content, size, err := w.next.Open(ctx, name, dgst)
	o.end(err)
	return content, size, err
}

// Create implements storage.Storage.
func (w *wrapper) Create(ctx context.Context, name string) (storage.Upload, error) {
	o := w.begin(ctx, opCreate)
	u, err := w.next.Create(ctx, name)
	o.end(err)
	return w.upload(u, err)
}

// Resume implements storage.Storage.
func (w *wrapper) Resume(ctx context.Context, name, ref string, offset int64) (storage.Upload, error) {
	o := w.begin(ctx, opResume)
	u, err := w.next.Resume(ctx, name, ref, offset)
	o.end(err)
	return w.upload(u, err)
}

// Mount implements storage.Storage.
func (w *wrapper) Mount(ctx context.Context, from, name string, dgst digest.Digest) error {
	o := w.begin(ctx, opMount)
	err := w.next.Mount(ctx, from, name, dgst)
	o.end(err)
	return err
}

// Delete implements storage.Storage.
func (w *wrapper) Delete(ctx context.Context, name string, dgst digest.Digest) error {
	o := w.begin(ctx, opDelete)
	err := w.next.Delete(ctx, name, dgst)
	o.end(err)
	return err
}

// Ping implements storage.Storage.
func (w *wrapper) Ping(ctx context.Context) error {
	o := w.begin(ctx, opPing)
	err := w.next.Ping(ctx)
	o.end(err)
	return err
}

// embedded is a wrapper of a storage of the server's own.
type embedded struct {
	wrapper
	own embeddedStorage
}

// SweepUploads deletes the files of old uploads.
func (e *embedded) SweepUploads(ctx context.Context, before time.Time) error {
	o := e.begin(ctx, opSweep)
	err := e.own.SweepUploads(ctx, before)
	o.end(err)
	return err
}
