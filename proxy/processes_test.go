package proxy_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"path"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/eventually"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/catalog"
	"github.com/countersign/countersign/proxy"
	"github.com/countersign/countersign/storage"
)

// secondServer returns the same world with a second handler on the same store and storage, like another server of the
// installation.
func (w *world) secondServer() *world {
	w.t.Helper()
	other := *w
	other.server = httptest.NewServer(proxy.New(w.options))
	w.t.Cleanup(other.server.Close)
	return &other
}

// begun is a storage that signals when a resumed upload begins to read a body, at which time it is open for writing.
type begun struct {
	storage.Storage
	once  sync.Once
	reads chan struct{}
}

type begunUpload struct {
	storage.Upload
	storage *begun
}

func (s *begun) Resume(ctx context.Context, name, ref string, offset int64) (storage.Upload, error) {
	u, err := s.Storage.Resume(ctx, name, ref, offset)
	if err != nil {
		return nil, err
	}
	return &begunUpload{u, s}, nil
}

func (u *begunUpload) ReadFrom(r io.Reader) (int64, error) {
	return u.Upload.ReadFrom(&signalling{r, func() { u.storage.once.Do(func() { close(u.storage.reads) }) }})
}

type signalling struct {
	io.Reader
	signal func()
}

func (s *signalling) Read(p []byte) (int, error) {
	s.signal()
	return s.Reader.Read(p)
}

// TestStalledChunkChangesNoBlob checks that a chunk that stalls at one server does not change the blob if another
// server ends the upload meanwhile.
func TestStalledChunkChangesNoBlob(t *testing.T) {
	t.Parallel()
	files := &begun{reads: make(chan struct{})}
	one := newWorld(t, func(o *proxy.Options) {
		files.Storage = o.Storage
		o.Storage = files
	})
	two := one.secondServer()
	b := random(200_000, 90)
	d := digest.FromBytes(b)
	at := one.startUpload("acme/app")
	one.expect(request{as: "admin", method: http.MethodPatch, path: at, body: b[:100_000]}, http.StatusAccepted)
	body, feed := io.Pipe()
	stalled := make(chan response, 1)
	go func() { stalled <- two.send(request{as: "admin", method: http.MethodPatch, path: at, body: body}) }()
	<-files.reads
	one.expect(
		request{as: "admin", method: http.MethodPut, path: at + "?digest=" + string(d), body: b[100_000:]},
		http.StatusCreated,
	)
	one.wantBlob("acme/app", d, b)
	if _, err := feed.Write(bytes.Repeat([]byte("overwritten"), 50_000)); err != nil {
		t.Fatal(err)
	}
	if err := feed.Close(); err != nil {
		t.Fatal(err)
	}
	if a := <-stalled; a.status != http.StatusNotFound || a.code() != "BLOB_UPLOAD_UNKNOWN" {
		t.Errorf("the stalled chunk: status %d %s, want 404 BLOB_UPLOAD_UNKNOWN", a.status, a.body)
	}
	one.wantBlob("acme/app", d, b)
	two.wantBlob("acme/app", d, b)
}

// TestStalledChunkUpstream checks that an upload to an upstream, which has one session for both servers, cannot be
// ended while another server writes to it.
func TestStalledChunkUpstream(t *testing.T) {
	t.Parallel()
	one, _ := newUpstreamWorld(t)
	two := one.secondServer()
	b := random(200_000, 91)
	d := digest.FromBytes(b)
	at := one.startUpload("acme/app")
	one.expect(request{as: "admin", method: http.MethodPatch, path: at, body: b[:100_000]}, http.StatusAccepted)
	target, err := one.store.Catalog.PushTarget(t.Context(), catalog.FirstPush{BasePath: "acme/app", Type: pulp.ContainerPush})
	if err != nil {
		t.Fatal(err)
	}
	claimed := func() bool {
		row, err := one.store.Uploads.Upload(t.Context(), target.Repository.ID, path.Base(at))
		return err == nil && row.Claimed
	}
	body, feed := io.Pipe()
	stalled := make(chan response, 1)
	go func() { stalled <- two.send(request{as: "admin", method: http.MethodPatch, path: at, body: body}) }()
	eventually.True(t, time.Minute, claimed, "the second server claims the upload")
	one.expectError(
		request{as: "admin", method: http.MethodPut, path: at + "?digest=" + string(digest.FromBytes(b[:100_000]))},
		http.StatusNotFound,
		"BLOB_UPLOAD_UNKNOWN",
	)
	one.expectError(
		request{as: "admin", method: http.MethodPatch, path: at, body: b[100_000:]},
		http.StatusNotFound,
		"BLOB_UPLOAD_UNKNOWN",
	)
	if _, err := feed.Write(b[100_000:]); err != nil {
		t.Fatal(err)
	}
	if err := feed.Close(); err != nil {
		t.Fatal(err)
	}
	if a := <-stalled; a.status != http.StatusAccepted {
		t.Fatalf("the chunk: status %d %s", a.status, a.body)
	}
	one.expect(request{as: "admin", method: http.MethodPut, path: at + "?digest=" + string(d)}, http.StatusCreated)
	two.wantBlob("acme/app", d, b)
}

// TestClaimOfAFailedRequestEnds checks that a failed request releases its claim on an upload to an upstream, so that
// another server can continue.
func TestClaimOfAFailedRequestEnds(t *testing.T) {
	t.Parallel()
	one, b := newUpstreamWorld(t)
	two := one.secondServer()
	content := random(100_000, 92)
	d := digest.FromBytes(content)
	at := one.startUpload("acme/app")
	one.expect(request{as: "admin", method: http.MethodPatch, path: at, body: content[:50_000]}, http.StatusAccepted)
	b.unavailable.Store(true)
	two.expectError(
		request{as: "admin", method: http.MethodPatch, path: at, body: content[50_000:]},
		http.StatusServiceUnavailable,
		"UNAVAILABLE",
	)
	two.expectError(
		request{as: "admin", method: http.MethodPut, path: at + "?digest=" + string(d)},
		http.StatusServiceUnavailable,
		"UNAVAILABLE",
	)
	b.unavailable.Store(false)
	one.expect(request{as: "admin", method: http.MethodPatch, path: at, body: content[50_000:]}, http.StatusAccepted)
	two.expect(request{as: "admin", method: http.MethodPut, path: at + "?digest=" + string(d)}, http.StatusCreated)
	one.wantBlob("acme/app", d, content)
}
