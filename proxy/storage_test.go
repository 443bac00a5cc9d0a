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

// hooked is a storage whose uploads can be made to fail, and to be followed by something.
type hooked struct {
	storage.Storage
	full      atomic.Bool                         // writes take half of what they get, and fail
	forgets   atomic.Bool                         // what is cut short is lost whole, as with an upstream
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
		u.lost = err != nil && u.storage.forgets.Load()
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

// What was acknowledged before a disk is full is there when it no longer is; the client is not blamed.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	for _, acked := range []int{0, 10_000, 40_000} {
		w, h := newHookedWorld(t)
		b := random(80_000, 11)
		at := w.start("acme/app")
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

// Where the storage loses the first chunk that is cut short, the upload goes on from what the database has of it.
func TestStorageThatKeepsNoBrokenChunk(t *testing.T) {
	t.Parallel()
	w, h := newHookedWorld(t)
	h.forgets.Store(true)
	for _, acked := range []int{0, 10_000} {
		b := random(80_000, 14)
		at := w.start("acme/app")
		if acked > 0 {
			w.expect(request{as: "admin", method: http.MethodPatch, path: at, body: b[:acked]}, http.StatusAccepted)
		}
		before := w.send(request{as: "admin", path: at}).header.Get("Range")
		// Longer than it says, and without a length of its own.
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

// A sweep that removes an older copy of a blob, while it is pushed again, may take the new bytes along: the push is
// then not acknowledged.
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

// While an older copy is being removed a push waits.
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
