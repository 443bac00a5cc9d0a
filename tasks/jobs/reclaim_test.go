package jobs_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/ingest"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/storage"
	"github.com/countersign/countersign/tasks"
	"github.com/countersign/countersign/tasks/jobs"
)

// reclaimWorld is a mirror of one image with one large layer.
type reclaimWorld struct {
	*mirrorWorld
	remote *remoteRegistry
	layer  pulp.Blob
	bytes  []byte
}

func newReclaim(t *testing.T) *reclaimWorld {
	t.Helper()
	g := newRemote(t)
	g.image("one", []int{50_000, 10}, "latest")
	w := &reclaimWorld{mirrorWorld: newMirror(t, g, nil), remote: g}
	w.sync(taskstore.TaskCompleted, nil)
	w.layer, w.bytes = w.only(), bytes.Repeat([]byte("one0"), 50_000/4+1)
	if w.layer.Digest != digest.FromBytes(w.bytes) {
		t.Fatalf("the large blob is %s", w.layer.Digest)
	}
	return w
}

// only returns the only blob that is in the storage.
func (w *reclaimWorld) only() pulp.Blob {
	w.Helper()
	held, err := w.store.Content.VersionBlobs(w.Context(), w.repo.ID, 1)
	if err != nil {
		w.Fatal(err)
	}
	var large []pulp.Blob
	for _, d := range held {
		b, err := w.store.Serving.Blob(w.Context(), d)
		if err != nil {
			w.Fatal(err)
		}
		if !b.Inline {
			large = append(large, b)
		}
	}
	if len(large) != 1 {
		w.Fatalf("%d large blobs", len(large))
	}
	return large[0]
}

// reclaim runs a reclaim and compares its reports: the numbers of released and kept blobs.
func (w *reclaimWorld) reclaim(args tasks.ReclaimArgs, released, kept int64) {
	w.Helper()
	k, err := w.dispatcher.Dispatch(w.Context(), tasks.BySystem(), tasks.Spec{Name: tasks.ReclaimSpace, Immediate: true, Args: args})
	if err != nil || k.State != taskstore.TaskCompleted {
		w.Fatalf("reclaim: %s %+v, %v", k.State, k.Error, err)
	}
	done := map[string]int64{}
	for _, p := range k.Progress {
		done[p.Code] = p.Done
	}
	if done["reclaim-space.artifact"] != released || done["reclaim-space.kept"] != kept || done["reclaim-space.bytes"] != released*w.layer.Size {
		w.Errorf("reports %v, want %d released and %d kept", done, released, kept)
	}
}

// stored reports whether the storage has the layer.
func (w *reclaimWorld) stored() bool {
	w.Helper()
	size, err := w.blobs.Storage.Stat(w.Context(), "", w.layer.Digest)
	if err != nil && !errors.Is(err, storage.ErrNotFound) || err == nil && size != w.layer.Size {
		w.Fatalf("Stat = %d, %v", size, err)
	}
	return err == nil
}

// served returns the layer as the mirror serves it.
func (w *reclaimWorld) served() pulp.Blob {
	w.Helper()
	b, err := w.store.Serving.ServedBlob(w.Context(), w.target(), w.layer.Digest)
	if err != nil {
		w.Fatal(err)
	}
	return b
}

// fetchAgain reads the absent layer as a client does, and returns the error.
func (w *reclaimWorld) fetchAgain() error {
	w.Helper()
	r, err := w.fetcher.Fetch(w.Context(), "c", w.repo, w.served())
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	got, err := io.ReadAll(r)
	if err == nil && !bytes.Equal(got, w.bytes) {
		w.Errorf("the fetched layer has %d other bytes", len(got))
	}
	return err
}

// second creates a second mirror of the same remote, or without one, with a copy of the image.
func (w *reclaimWorld) second(name, remoteID string) pulp.Repository {
	w.Helper()
	r, err := w.store.Catalog.CreateRepository(w.Context(), pulp.Repository{Type: pulp.Container, Name: name, RemoteID: remoteID}, 0)
	if err != nil {
		w.Fatal(err)
	}
	if _, err := w.store.Content.CopyContent(w.Context(), nil, r.ID, content.Copy{RepositoryID: w.repo.ID, Number: 1, Tags: true}); err != nil {
		w.Fatal(err)
	}
	return r
}

func (w *reclaimWorld) wantReleased() {
	w.Helper()
	if b := w.served(); w.stored() || !b.Absent || b.RemoteID != w.mirrorWorld.remote.ID || b.Size != w.layer.Size {
		w.Errorf("in the storage: %t, the blob: %+v", w.stored(), b)
	}
}

func (w *reclaimWorld) wantKept() {
	w.Helper()
	if b := w.served(); !w.stored() || b.Absent {
		w.Errorf("in the storage: %t, the blob: %+v", w.stored(), b)
	}
}

// TestReclaim releases the layer of a mirror, fetches it again on demand, and releases it again.
func TestReclaim(t *testing.T) {
	t.Parallel()
	w := newReclaim(t)
	for range 2 {
		w.reclaim(tasks.ReclaimArgs{}, 1, 0)
		w.wantReleased()
		w.reclaim(tasks.ReclaimArgs{}, 0, 0)
		if err := w.fetchAgain(); err != nil {
			t.Fatal(err)
		}
		w.wantKept()
	}
	w.reclaim(tasks.ReclaimArgs{Repositories: []string{w.repo.ID}}, 1, 0)
	w.wantReleased()
	w.sync(taskstore.TaskCompleted, nil) // with the policy immediate
	w.wantKept()
}

// TestReclaimKeeps proves that the bytes stay unless every repository that holds them can fetch them again.
func TestReclaimKeeps(t *testing.T) {
	t.Parallel()
	answer := func(status int) func(http.ResponseWriter, *http.Request) bool {
		return func(rw http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "/blobs/") {
				rw.WriteHeader(status)
			}
			return strings.Contains(r.URL.Path, "/blobs/")
		}
	}
	for name, c := range map[string]struct {
		before func(w *reclaimWorld) tasks.ReclaimArgs
		kept   int64
	}{
		"another repository is selected": {before: func(w *reclaimWorld) tasks.ReclaimArgs {
			return tasks.ReclaimArgs{Repositories: []string{pulp.NewID()}}
		}},
		"no repository is selected": {before: func(*reclaimWorld) tasks.ReclaimArgs { return tasks.ReclaimArgs{Repositories: []string{}} }},
		"the version is kept": {before: func(w *reclaimWorld) tasks.ReclaimArgs {
			return tasks.ReclaimArgs{Keep: []content.KeptVersion{{RepositoryID: w.repo.ID, Number: 1}}}
		}},
		"a repository without remote has a copy": {before: func(w *reclaimWorld) tasks.ReclaimArgs {
			w.second("dst/copy", "")
			return tasks.ReclaimArgs{}
		}},
		"another mirror is not selected": {before: func(w *reclaimWorld) tasks.ReclaimArgs {
			w.second("dst/copy", w.mirrorWorld.remote.ID)
			return tasks.ReclaimArgs{Repositories: []string{w.repo.ID}}
		}},
		"another mirror's remote is not known to have it": {before: func(w *reclaimWorld) tasks.ReclaimArgs {
			other, err := w.store.Catalog.CreateRemote(w.Context(), pulp.Remote{
				Name: "other", URL: w.remote.server.URL, UpstreamName: "src/app", Policy: pulp.Immediate,
			}, 0)
			if err != nil {
				w.Fatal(err)
			}
			w.second("dst/copy", other.ID)
			return tasks.ReclaimArgs{}
		}},
		"a client has pushed it": {before: func(w *reclaimWorld) tasks.ReclaimArgs {
			if err := w.store.Content.CommitBlob(w.Context(), w.repo.ID, w.layer, "", 0); err != nil {
				w.Fatal(err)
			}
			if _, err := w.store.Content.DeleteBlob(w.Context(), w.repo.ID, w.layer.Digest); err == nil {
				w.Error("a blob of an image is deleted")
			}
			w.exec(`DELETE FROM unversioned_content`)
			return tasks.ReclaimArgs{}
		}},
		"it is pending elsewhere": {before: func(w *reclaimWorld) tasks.ReclaimArgs {
			other, err := w.store.Catalog.CreateRepository(w.Context(), pulp.Repository{Type: pulp.Container, Name: "acme/new"}, 0)
			if err != nil {
				w.Fatal(err)
			}
			if err := w.store.Content.LinkBlob(w.Context(), other.ID, w.layer); err != nil {
				w.Fatal(err)
			}
			w.exec(`UPDATE blob SET pushed = FALSE`)
			return tasks.ReclaimArgs{}
		}},
		"the repository has no remote any more": {before: func(w *reclaimWorld) tasks.ReclaimArgs {
			w.exec(`UPDATE repository SET remote_id = NULL`)
			return tasks.ReclaimArgs{}
		}},
		"the remote has it no more": {before: func(w *reclaimWorld) tasks.ReclaimArgs {
			w.remote.set(answer(http.StatusNotFound))
			return tasks.ReclaimArgs{}
		}, kept: 1},
		"the remote refuses": {before: func(w *reclaimWorld) tasks.ReclaimArgs {
			w.remote.set(answer(http.StatusUnauthorized))
			return tasks.ReclaimArgs{}
		}, kept: 1},
		"the remote does not answer": {before: func(w *reclaimWorld) tasks.ReclaimArgs {
			w.remote.server.Close()
			return tasks.ReclaimArgs{}
		}, kept: 1},
		"the remote has other bytes": {before: func(w *reclaimWorld) tasks.ReclaimArgs {
			w.exec(`UPDATE blob SET size = size + 1`)
			return tasks.ReclaimArgs{}
		}, kept: 1},
		"the remote is this server": {before: func(w *reclaimWorld) tasks.ReclaimArgs {
			w.serve(func(o *jobs.Options) { o.Host = strings.TrimPrefix(w.remote.server.URL, "http://") })
			return tasks.ReclaimArgs{}
		}, kept: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newReclaim(t)
			args := c.before(w)
			w.T = t
			w.reclaim(args, 0, c.kept)
			w.wantKept()
		})
	}
}

// exec executes a statement.
func (w *reclaimWorld) exec(text string) {
	w.Helper()
	if err := w.store.Content.InTx(w.Context(), func(x *content.Tx) error { _, err := x.Exec(text); return err }); err != nil {
		w.Fatal(err)
	}
}

// TestReclaimOfTwoMirrors releases a blob that two mirrors of one remote hold. Both claim it, and both have it when one of
// them has fetched it again.
func TestReclaimOfTwoMirrors(t *testing.T) {
	t.Parallel()
	w := newReclaim(t)
	other := w.second("dst/copy", w.mirrorWorld.remote.ID)
	w.reclaim(tasks.ReclaimArgs{Repositories: []string{w.repo.ID, other.ID}}, 1, 0)
	w.wantReleased()
	absent := func(want bool) {
		t.Helper()
		b, err := w.store.Serving.RepositoryBlob(t.Context(), other.ID, w.layer.ID)
		if err != nil || b.Absent != want || want && b.RemoteID != w.mirrorWorld.remote.ID {
			t.Errorf("the other mirror has %+v, %v", b, err)
		}
	}
	absent(true)
	third := w.second("dst/third", "") // copies inherit the claim
	if b, err := w.store.Serving.RepositoryBlob(t.Context(), third.ID, w.layer.ID); err != nil || !b.Absent || b.RemoteID == "" {
		t.Errorf("a copy has %+v, %v", b, err)
	}
	if err := w.fetchAgain(); err != nil {
		t.Fatal(err)
	}
	absent(false)
}

// released releases the layer in the database only, as a process that is killed then.
func (w *reclaimWorld) released() content.Released {
	w.Helper()
	found, err := w.store.Content.Releasable(w.Context(), content.Reclaim{}, "", 10)
	if err != nil || len(found) != 1 {
		w.Fatalf("Releasable = %+v, %v", found, err)
	}
	gone, err := w.store.Content.Release(w.Context(), content.Reclaim{}, found)
	if err != nil || len(gone) != 1 || gone[0].Digest != w.layer.Digest {
		w.Fatalf("Release = %+v, %v", gone, err)
	}
	return gone[0]
}

// TestKilledReclaim proves that housekeeping, and the next reclaim, delete the bytes that a killed reclaim has left, and that a
// copy that is made in between has the blob.
func TestKilledReclaim(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(w *reclaimWorld){
		"reclaim": func(w *reclaimWorld) { w.reclaim(tasks.ReclaimArgs{}, 0, 0) },
		"housekeeping": func(w *reclaimWorld) {
			h := jobs.Housekeeper{Store: w.store, Storage: w.blobs.Storage, Log: slog.New(slog.DiscardHandler), Embedded: true}
			if err := h.Clean(w.Context()); err != nil {
				w.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newReclaim(t)
			w.released()
			if !w.stored() {
				t.Error("the bytes are deleted before the release ends")
			}
			other := w.second("dst/copy", w.mirrorWorld.remote.ID)
			if b, err := w.store.Serving.RepositoryBlob(t.Context(), other.ID, w.layer.ID); err != nil || !b.Absent {
				t.Errorf("the copy has %+v, %v", b, err)
			}
			claimed := pulp.Blob{Digest: w.layer.Digest, Size: w.layer.Size, Absent: true} // by a sync on demand
			if err := w.store.Content.FetchedBlob(t.Context(), w.repo.ID, w.mirrorWorld.remote.ID, claimed); err != nil {
				t.Error(err)
			}
			w.exec(`DELETE FROM unversioned_content`)
			end(w)
			w.wantReleased()
			if err := w.fetchAgain(); err != nil {
				t.Fatal(err)
			}
			w.wantKept()
		})
	}
}

// TestBytesStoredBeforeARelease proves that a writer which stored the bytes before they were released does not record them:
// they are gone.
func TestBytesStoredBeforeARelease(t *testing.T) {
	t.Parallel()
	w := newReclaim(t)
	got, err := w.blobs.Receive(t.Context(), "dst/app", w.layer.Digest, bytes.NewReader(w.bytes))
	if err != nil {
		t.Fatal(err)
	}
	w.reclaim(tasks.ReclaimArgs{}, 1, 0)
	push := func() error {
		return w.blobs.Record(t.Context(), got, func(ctx context.Context, b pulp.Blob) error {
			return w.store.Content.CommitBlob(ctx, w.repo.ID, b, "", 0)
		}, nil)
	}
	if err := push(); !errors.Is(err, ingest.ErrRemoved) {
		t.Errorf("Record = %v, want ErrRemoved", err)
	}
	w.wantReleased()
	if got, err = w.blobs.Receive(t.Context(), "dst/app", w.layer.Digest, bytes.NewReader(w.bytes)); err != nil {
		t.Fatal(err)
	}
	if err := push(); err != nil {
		t.Errorf("a second push: %v", err)
	}
	w.wantKept()
	w.exec(`DELETE FROM unversioned_content`)
	w.reclaim(tasks.ReclaimArgs{}, 0, 0) // it was pushed
}

// TestReclaimSurvivesStorageErrors proves that a blob whose bytes cannot be deleted is released by a later attempt.
func TestReclaimSurvivesStorageErrors(t *testing.T) {
	t.Parallel()
	w := newReclaim(t)
	broken := w.blobs
	broken.Storage = undeletable{w.blobs.Storage}
	w.serve(func(o *jobs.Options) { o.Blobs = broken })
	k, err := w.dispatcher.Dispatch(t.Context(), tasks.BySystem(), tasks.Spec{Name: tasks.ReclaimSpace, Immediate: true, Args: tasks.ReclaimArgs{}})
	if err != nil || k.State != taskstore.TaskFailed {
		t.Fatalf("reclaim: %s, %v", k.State, err)
	}
	w.serve(nil)
	w.reclaim(tasks.ReclaimArgs{}, 0, 0)
	w.wantReleased()
}

// undeletable is a storage that deletes nothing.
type undeletable struct{ storage.Storage }

func (undeletable) Delete(context.Context, string, digest.Digest) error { return os.ErrPermission }
