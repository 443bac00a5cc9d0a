package proxy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/proxy"
	"github.com/countersign/countersign/storage"
)

// hooked is a storage whose uploads can fail and run a function after a commit.
type hooked struct {
	storage.Storage
	full      atomic.Bool                         // writes store half of their input and fail
	discards  atomic.Bool                         // an interrupted write loses all bytes, as with an upstream
	committed atomic.Pointer[func(digest.Digest)] // runs after a commit
}

type hookedUpload struct {
	storage.Upload
	storage *hooked
	lost    bool
}

func (h *hooked) Create(ctx context.Context, name string) (storage.Upload, error) {
	u, err := h.Storage.Create(ctx, name)
	return &hookedUpload{Upload: u, storage: h}, err
}

func (h *hooked) Resume(ctx context.Context, name, ref string, offset int64) (storage.Upload, error) {
	u, err := h.Storage.Resume(ctx, name, ref, offset)
	if err != nil {
		return nil, err
	}
	return &hookedUpload{Upload: u, storage: h}, nil
}

func (u *hookedUpload) ReadFrom(r io.Reader) (int64, error) {
	if u.lost {
		return 0, storage.ErrNotFound
	}
	if !u.storage.full.Load() {
		n, err := u.Upload.ReadFrom(r)
		u.lost = err != nil && u.storage.discards.Load()
		return n, err
	}
	n, err := u.Upload.ReadFrom(io.LimitReader(r, 7_000))
	return n, errors.Join(err, errors.New("no space left on device"))
}

func (u *hookedUpload) Size() int64 {
	if u.lost {
		return 0
	}
	return u.Upload.Size()
}

func (u *hookedUpload) Commit(ctx context.Context, d digest.Digest) error {
	err := u.Upload.Commit(ctx, d)
	if f := u.storage.committed.Load(); f != nil && err == nil {
		(*f)(d)
	}
	return err
}

func newHookedWorld(t *testing.T) (*world, *hooked) {
	t.Helper()
	h := &hooked{}
	return newWorld(t, func(o *proxy.Options) {
		h.Storage = o.Storage
		o.Storage = h
	}), h
}

// TestFullDisk checks that acknowledged bytes survive a full disk, and that the response does not blame the client.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	for _, acked := range []int{0, 10_000, 40_000} {
		w, h := newHookedWorld(t)
		b := random(80_000, 11)
		at := w.startUpload("acme/app")
		if acked > 0 {
			w.expect(request{as: "admin", method: http.MethodPatch, path: at, body: b[:acked]}, http.StatusAccepted)
		}
		before := w.send(request{as: "admin", path: at}).header.Get("Range")
		h.full.Store(true)
		w.expectError(
			request{as: "admin", method: http.MethodPatch, path: at, body: b[acked:]},
			http.StatusInternalServerError,
			"UNKNOWN",
		)
		w.expectError(
			request{
				as:     "admin",
				method: http.MethodPost,
				path:   "/v2/acme/app/blobs/uploads/?digest=" + string(digest.FromBytes(b)),
				body:   b,
			},
			http.StatusInternalServerError,
			"UNKNOWN",
		)
		if after := w.send(request{as: "admin", path: at}).header.Get("Range"); after != before {
			t.Errorf("the upload has %s, want %s as before", after, before)
		}
		h.full.Store(false)
		d := digest.FromBytes(b)
		w.expect(
			request{as: "admin", method: http.MethodPut, path: at + "?digest=" + string(d), body: b[acked:]},
			http.StatusCreated,
		)
		w.wantBlob("acme/app", d, b)
	}
}

// TestStorageThatKeepsNoBrokenChunk checks that an upload can continue from the bytes in the database if the storage
// loses the interrupted first chunk.
func TestStorageThatKeepsNoBrokenChunk(t *testing.T) {
	t.Parallel()
	w, h := newHookedWorld(t)
	h.discards.Store(true)
	for _, acked := range []int{0, 10_000} {
		b := random(80_000, 14)
		at := w.startUpload("acme/app")
		if acked > 0 {
			w.expect(request{as: "admin", method: http.MethodPatch, path: at, body: b[:acked]}, http.StatusAccepted)
		}
		before := w.send(request{as: "admin", path: at}).header.Get("Range")
		// A body of unknown length that is longer than its Content-Range.
		place := fmt.Sprintf("%d-%d", acked, len(b)-2)
		w.expectError(
			request{
				as:      "admin",
				method:  http.MethodPatch,
				path:    at,
				body:    io.MultiReader(bytes.NewReader(b[acked:])),
				headers: []string{"Content-Range", place},
			},
			http.StatusBadRequest,
			"BLOB_UPLOAD_INVALID",
		)
		if after := w.expect(request{as: "admin", path: at}, http.StatusNoContent).header.Get("Range"); after != before {
			t.Errorf("the upload has %s, want %s as before", after, before)
		}
		d := digest.FromBytes(b)
		w.expect(
			request{as: "admin", method: http.MethodPut, path: at + "?digest=" + string(d), body: b[acked:]},
			http.StatusCreated,
		)
		w.wantBlob("acme/app", d, b)
	}
}

// TestPushWhileAnOlderCopyIsSwept checks that a push fails if orphan cleanup removes an older copy of the blob, and
// with it the new bytes, during the push.
func TestPushWhileAnOlderCopyIsSwept(t *testing.T) {
	t.Parallel()
	w, h := newHookedWorld(t)
	b := random(40_000, 12)
	d := w.pushBlob("acme/app", string(b))
	blob := "/v2/acme/app/blobs/" + string(d)
	w.expect(request{as: "admin", method: http.MethodDelete, path: blob}, http.StatusAccepted)
	sweep := func(d digest.Digest) {
		h.committed.Store(nil)
		doomed, err := w.store.Sweeps.DoomBlobs(t.Context(), time.Now().Add(time.Hour), 10)
		if err != nil || len(doomed) != 1 {
			t.Errorf("doomed %v, %v", doomed, err)
			return
		}
		if err := errors.Join(w.storage.Delete(t.Context(), "", d), w.store.Sweeps.ForgetBlob(t.Context(), doomed[0].ID)); err != nil {
			t.Error(err)
		}
	}
	h.committed.Store(&sweep)
	w.expectError(
		request{as: "admin", method: http.MethodPost, path: "/v2/acme/app/blobs/uploads/?digest=" + string(d), body: b},
		http.StatusServiceUnavailable,
		"UNAVAILABLE",
	)
	w.expectError(request{as: "admin", path: blob}, http.StatusNotFound, "BLOB_UNKNOWN")
	w.pushBlob("acme/app", string(b))
	w.wantBlob("acme/app", d, b)
}

// TestPushWaitsForARemoval checks that a push waits while an older copy of the blob is removed.
func TestPushWaitsForARemoval(t *testing.T) {
	t.Parallel()
	w, h := newHookedWorld(t)
	b := random(40_000, 13)
	d := w.pushBlob("acme/app", string(b))
	w.expect(
		request{as: "admin", method: http.MethodDelete, path: "/v2/acme/app/blobs/" + string(d)},
		http.StatusAccepted,
	)
	doomed, err := w.store.Sweeps.DoomBlobs(t.Context(), time.Now().Add(time.Hour), 10)
	if err != nil || len(doomed) != 1 {
		t.Fatalf("doomed %v, %v", doomed, err)
	}
	forget := func(digest.Digest) {
		time.AfterFunc(100*time.Millisecond, func() {
			if err := w.store.Sweeps.ForgetBlob(context.WithoutCancel(t.Context()), doomed[0].ID); err != nil {
				t.Error(err)
			}
		})
	}
	h.committed.Store(&forget)
	w.pushBlob("acme/app", string(b))
	w.wantBlob("acme/app", d, b)
}
