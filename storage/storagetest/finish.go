package storagetest

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/storage"
)

// finisher starts an upload that implements storage.Finisher. It skips the test if the storage has none.
func finisher(t *testing.T, s storage.Storage) (storage.Upload, storage.Finisher) {
	t.Helper()
	u := create(t, s)
	f, ok := u.(storage.Finisher)
	if !ok {
		if err := u.Cancel(t.Context()); err != nil {
			t.Errorf("Cancel = %v", err)
		}
		t.Skip("the uploads of this storage do not implement storage.Finisher")
	}
	return u, f
}

func finishes(t *testing.T, s storage.Storage) {
	for _, size := range []int{0, 1, 17_000, 5 << 20} {
		for seed, from := range map[uint64]func(io.Reader) io.Reader{
			16: func(r io.Reader) io.Reader { return r },
			17: func(r io.Reader) io.Reader { return io.MultiReader(r) }, // without a known length
		} {
			b := content(size, seed)
			d := digest.FromBytes(b)
			u, f := finisher(t, s)
			if err := f.Finish(t.Context(), from(bytes.NewReader(b)), d); err != nil || u.Size() != int64(size) {
				t.Fatalf("Finish of %d bytes = %v, size %d", size, err, u.Size())
			}
			if err := errors.Join(u.Cancel(t.Context()), u.Close()); err != nil {
				t.Errorf("Cancel and Close after Finish = %v", err)
			}
			wantBlob(t, s, name, d, b)
		}
	}
}

func finishesSHA512(t *testing.T, s storage.Storage) {
	b := content(50_000, 18)
	d := digest.SHA512.FromBytes(b)
	_, f := finisher(t, s)
	switch err := f.Finish(t.Context(), bytes.NewReader(b), d); {
	case errors.Is(err, storage.ErrUnsupported):
		wantGone(t, s, d)
	case err != nil:
		t.Errorf("Finish = %v", err)
	default:
		wantBlob(t, s, name, d, b)
	}
}

func finishesLater(t *testing.T, s storage.Storage) {
	b := content(60_000, 19)
	d := digest.FromBytes(b)
	u, f := finisher(t, s)
	write(t, u, b[:25_000])
	if err := f.Finish(t.Context(), bytes.NewReader(b[25_000:]), d); err != nil || u.Size() != int64(len(b)) {
		t.Fatalf("Finish = %v, size %d", err, u.Size())
	}
	wantBlob(t, s, name, d, b)
}

func finishesWrong(t *testing.T, s storage.Storage) {
	b := content(30_000, 20)
	for _, other := range []digest.Digest{digest.FromString("other"), digest.SHA512.FromString("other")} {
		u, f := finisher(t, s)
		err := f.Finish(t.Context(), bytes.NewReader(b), other)
		if !errors.Is(err, storage.ErrDigest) && (other.Algorithm() == digest.SHA256 || !errors.Is(err, storage.ErrUnsupported)) {
			t.Errorf("Finish under another %s = %v, want ErrDigest", other.Algorithm(), err)
		}
		wantGone(t, s, other)
		wantGone(t, s, digest.FromBytes(b))
		if err := u.Cancel(t.Context()); err != nil {
			t.Errorf("Cancel = %v", err)
		}
	}
}

func finishesNot(t *testing.T, s storage.Storage) {
	b := content(30_000, 21)
	d := digest.FromBytes(b)
	u, f := finisher(t, s)
	if err := f.Finish(t.Context(), io.MultiReader(bytes.NewReader(b), failingReader{}), d); !errors.Is(err, errBroken) {
		t.Errorf("Finish of a failing reader = %v, want its error", err)
	}
	if err := f.Finish(t.Context(), bytes.NewReader(nil), d); err == nil {
		t.Error("Finish after that succeeded")
	}
	if err := u.Cancel(t.Context()); err != nil {
		t.Errorf("Cancel = %v", err)
	}
	wantGone(t, s, d)
}
