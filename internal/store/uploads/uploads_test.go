package uploads_test

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/internal/store/uploads"
)

func TestUploadMovesToTheNextEpoch(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	repository := storetest.Target(t, s, "acme/app").Repository
	u, err := s.Uploads.CreateUpload(t.Context(), repository.ID)
	if err != nil {
		t.Fatal(err)
	}
	if u.Epoch != 0 || u.Size != 0 || u.Touched.IsZero() {
		t.Errorf("CreateUpload = %+v, want an empty session in epoch 0", u)
	}
	first := u
	u.Data, u.Size = []byte("bytes"), 5
	if u.Epoch, err = s.Uploads.SaveUpload(t.Context(), u); err != nil || u.Epoch != 1 {
		t.Fatalf("SaveUpload = %d, %v, want epoch 1", u.Epoch, err)
	}
	got, err := s.Uploads.Upload(t.Context(), repository.ID, u.ID)
	if err != nil || string(got.Data) != "bytes" || got.Size != 5 || got.Epoch != 1 || got.Repository != repository.Name {
		t.Errorf("Upload = %+v, %v", got, err)
	}
	u.StorageRef = "reference"
	if u.Epoch, err = s.Uploads.SaveUpload(t.Context(), u); err != nil || u.Epoch != 2 {
		t.Fatalf("SaveUpload = %d, %v, want epoch 2", u.Epoch, err)
	}
	if got, err = s.Uploads.Upload(t.Context(), repository.ID, u.ID); err != nil || got.StorageRef != "reference" || len(got.Data) > 0 {
		t.Errorf("Upload with bytes in the storage = %+v, %v, want no bytes in the row", got, err)
	}
	for name, call := range map[string]func() error{
		"SaveUpload":  func() error { _, err := s.Uploads.SaveUpload(t.Context(), first); return err },
		"ClaimUpload": func() error { _, err := s.Uploads.ClaimUpload(t.Context(), first); return err },
		"EndUpload":   func() error { return s.Uploads.EndUpload(t.Context(), first) },
	} {
		if err := call(); !errors.Is(err, uploads.ErrUploadGone) {
			t.Errorf("%s in an earlier epoch: %v, want ErrUploadGone", name, err)
		}
	}
}

// TestOneWriterOfAnEpochWins saves and claims one epoch from several goroutines: one of them succeeds.
func TestOneWriterOfAnEpochWins(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	u, err := s.Uploads.CreateUpload(t.Context(), storetest.Target(t, s, "acme/app").Repository.ID)
	if err != nil {
		t.Fatal(err)
	}
	var calls sync.WaitGroup
	var won atomic.Int32
	for i := range 10 {
		calls.Go(func() {
			write := s.Uploads.SaveUpload
			if i%2 == 0 {
				write = s.Uploads.ClaimUpload
			}
			switch _, err := write(t.Context(), u); {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, uploads.ErrUploadGone):
				t.Error(err)
			}
		})
	}
	calls.Wait()
	if won.Load() != 1 {
		t.Errorf("%d writers of one epoch succeeded, want 1", won.Load())
	}
}

func TestClaimHidesTheStorageReference(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	id := storetest.Target(t, s, "acme/app").Repository.ID
	u, err := s.Uploads.CreateUpload(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	u.StorageRef = "reference"
	if u.Epoch, err = s.Uploads.SaveUpload(t.Context(), u); err != nil {
		t.Fatal(err)
	}
	if u.Epoch, err = s.Uploads.ClaimUpload(t.Context(), u); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Uploads.Upload(t.Context(), id, u.ID); err != nil || !got.Claimed || got.StorageRef != "" {
		t.Errorf("a claimed session = %+v, %v, want no reference", got, err)
	}
	if _, err = s.Uploads.SaveUpload(t.Context(), u); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Uploads.Upload(t.Context(), id, u.ID); err != nil || got.Claimed || got.StorageRef != "reference" {
		t.Errorf("a session that was saved again = %+v, %v, want the reference", got, err)
	}
}

func TestUploadEnds(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	id, other := storetest.Target(t, s, "acme/app").Repository.ID, storetest.Target(t, s, "acme/other").Repository.ID
	create := func() uploads.Upload {
		t.Helper()
		u, err := s.Uploads.CreateUpload(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	tests := map[string]func(u uploads.Upload) error{
		"EndUpload":    func(u uploads.Upload) error { return s.Uploads.EndUpload(t.Context(), u) },
		"DeleteUpload": func(u uploads.Upload) error { return s.Uploads.DeleteUpload(t.Context(), id, u.ID) },
		"CommitBlob": func(u uploads.Upload) error {
			b := pulp.Blob{Digest: digest.FromString("bytes"), Size: 5, Data: []byte("bytes"), Inline: true}
			return s.Content.CommitBlob(t.Context(), id, b, u.ID, u.Epoch)
		},
	}
	for name, end := range tests {
		u := create()
		if _, err := s.Uploads.Upload(t.Context(), other, u.ID); !fault.Is(err, fault.NotFound) {
			t.Errorf("a session in another repository: %v, want NotFound", err)
		}
		if err := s.Uploads.DeleteUpload(t.Context(), other, u.ID); !errors.Is(err, uploads.ErrUploadGone) {
			t.Errorf("DeleteUpload in another repository: %v, want ErrUploadGone", err)
		}
		if err := end(u); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := s.Uploads.Upload(t.Context(), id, u.ID); !fault.Is(err, fault.NotFound) {
			t.Errorf("the session after %s: %v, want NotFound", name, err)
		}
		if err := end(u); !errors.Is(err, uploads.ErrUploadGone) {
			t.Errorf("%s again: %v, want ErrUploadGone", name, err)
		}
	}
}
