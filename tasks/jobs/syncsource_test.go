package jobs_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/ingest"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/catalog"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/tasks"
)

// absent returns the absent blobs of a repository's latest version as a client sees them.
func (w *mirrorWorld) absent(repo pulp.Repository) []pulp.Blob {
	w.Helper()
	found, err := w.store.Content.AbsentBlobs(w.Context(), repo.ID)
	if err != nil {
		w.Fatal(err)
	}
	for i, b := range found {
		if found[i], err = w.store.Serving.ServedBlob(w.Context(), record.Target{Repository: repo}, b.Digest); err != nil || !found[i].Absent {
			w.Fatal(found[i], err)
		}
	}
	return found
}

// wantSource expects so many absent blobs, and the remote as their source; an empty id: no source.
func (w *mirrorWorld) wantSource(repo pulp.Repository, n int, remoteID string) {
	w.Helper()
	found := w.absent(repo)
	if len(found) != n {
		w.Errorf("%d blobs of %s are absent, want %d", len(found), repo.Name, n)
	}
	for _, b := range found {
		if b.RemoteID != remoteID {
			w.Errorf("%s in %s is to be had from %q, want %q", b.Digest, repo.Name, b.RemoteID, remoteID)
		}
	}
}

// bytesOf returns the bytes of a blob of the remote.
func (g *remoteRegistry) bytesOf(d digest.Digest) []byte {
	g.Helper()
	res, err := http.Get(g.server.URL + "/v2/src/app/blobs/" + string(d))
	if err != nil {
		g.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		g.Fatal(res.Status, err)
	}
	return b
}

// pull fetches an absent blob like a client.
func (w *mirrorWorld) pull(repo pulp.Repository, b pulp.Blob) error {
	w.Helper()
	r, err := w.fetcher.Fetch(w.Context(), "c", repo, b)
	if err != nil || r.ReadCloser == nil {
		return errors.Join(err, errors.New("no bytes"))
	}
	defer func() { _ = r.Close() }()
	got, err := io.ReadAll(r)
	if err == nil && b.Digest.Algorithm().FromBytes(got) != b.Digest {
		err = errors.New("wrong bytes")
	}
	return err
}

// recreate deletes and creates the remote: the same settings with another id.
func (w *mirrorWorld) recreate(name string, change func(*pulp.Remote)) pulp.Remote {
	w.Helper()
	r := w.remote
	r.Name = name
	if change != nil {
		change(&r)
	}
	made, err := w.store.Catalog.CreateRemote(w.Context(), r, 0)
	if err != nil {
		w.Fatal(err)
	}
	return made
}

func (w *mirrorWorld) deleteRemote(r pulp.Remote) {
	w.Helper()
	if err := w.store.Catalog.DeleteRemote(w.Context(), nil, r.ID); err != nil {
		w.Fatal(err)
	}
}

// repair repairs version 1 and returns its report about blobs without a source, if there is one.
func (w *mirrorWorld) repair(repo pulp.Repository) (done int64, message string) {
	w.Helper()
	k, err := w.dispatcher.Dispatch(w.Context(), tasks.BySystem(), tasks.Spec{Name: tasks.Repair, Immediate: true, Args: tasks.VersionArgs{RepositoryID: repo.ID, Number: 1}})
	if err != nil || k.State != taskstore.TaskCompleted {
		w.Fatalf("repair: %s %+v, %v", k.State, k.Error, err)
	}
	for _, p := range k.Progress {
		if p.Code == "repair.unavailable" {
			return p.Done, p.Message
		}
	}
	return 0, ""
}

// After its remote is deleted, a repository reports its absent blobs. The next sync from a recreated remote
// makes them available again. Since the repository has all manifests, it creates no version and only lists
// tags.
func TestRecreatedRemoteRestoresBlobs(t *testing.T) {
	t.Parallel()
	for _, policy := range []pulp.Policy{pulp.OnDemand, pulp.Streamed} {
		for _, mirrors := range []bool{false, true} {
			g := newRemote(t)
			fillRemote(g)
			w := newMirror(t, g, func(r *pulp.Remote) { r.Policy = policy })
			w.sync(taskstore.TaskCompleted, nil)
			w.wantSource(w.repo, 4, w.remote.ID)
			if n, _ := w.repair(w.repo); n != 0 {
				t.Errorf("repair reports %d blobs", n)
			}
			w.deleteRemote(w.remote)
			w.wantSource(w.repo, 4, "")
			lost := w.absent(w.repo)
			if n, message := w.repair(w.repo); n != 4 || !strings.Contains(message, string(lost[0].Digest)) || !strings.Contains(message, string(lost[3].Digest)) {
				t.Errorf("repair reports %d: %s", n, message)
			}
			if err := w.pull(w.repo, lost[0]); !errors.Is(err, ingest.ErrNoSource) {
				t.Errorf("pulled: %v", err)
			}
			w.remote = w.recreate("src", nil)
			g.count()
			w.sync(taskstore.TaskCompleted, func(a *tasks.SyncArgs) { a.Mirror = mirrors })
			if n := g.count(); n["GET manifests"] != 0 || n["GET blobs"] != 0 {
				t.Errorf("the sync asked %v", n)
			}
			w.wantHeld(held{version: 1, blobs: 7, manifests: 4, tags: 2})
			w.wantSource(w.repo, 4, w.remote.ID)
			if n, _ := w.repair(w.repo); n != 0 {
				t.Errorf("repair reports %d blobs", n)
			}
			for _, b := range lost {
				b.RemoteID = w.remote.ID
				if err := w.pull(w.repo, b); err != nil {
					t.Errorf("pulled %s: %v", b.Digest, err)
				}
			}
			w.wantSource(w.repo, map[pulp.Policy]int{pulp.OnDemand: 0, pulp.Streamed: 4}[policy], w.remote.ID)
		}
	}
}

// A sync makes its remote a source of the blobs of all images that the remote lists, and of no others. Of
// several remotes the latest is asked first. An image without a tag at the remote keeps its earlier source.
func TestSyncsFromSeveralRemotes(t *testing.T) {
	t.Parallel()
	first, second := newRemote(t), newRemote(t)
	fillRemote(first)
	second.image("one", []int{50_000, 10}, "latest") // the same image, without the index
	w := newMirror(t, first, func(r *pulp.Remote) { r.Policy = pulp.OnDemand })
	w.sync(taskstore.TaskCompleted, nil)
	old := w.remote
	w.remote = w.recreate("second", func(r *pulp.Remote) { r.URL = second.server.URL })
	w.sync(taskstore.TaskCompleted, nil)
	sources := func() map[string]int {
		n := map[string]int{}
		for _, b := range w.absent(w.repo) {
			n[b.RemoteID]++
		}
		return n
	}
	if n := sources(); n[w.remote.ID] != 2 || n[old.ID] != 2 {
		t.Errorf("sources %v", n)
	}
	// The second remote loses one blob: the first is asked.
	var shared pulp.Blob
	for _, b := range w.absent(w.repo) {
		if b.RemoteID == w.remote.ID {
			shared = b
		}
	}
	second.set(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") {
			w.WriteHeader(http.StatusNotFound)
			return true
		}
		return false
	})
	if err := w.pull(w.repo, shared); !errors.Is(err, ingest.ErrLacks) {
		t.Errorf("pulled: %v", err)
	}
	if n := sources(); n[w.remote.ID] != 1 || n[old.ID] != 3 {
		t.Errorf("sources %v", n)
	}
	w.deleteRemote(old)
	if n := sources(); n[w.remote.ID] != 1 || n[""] != 3 {
		t.Errorf("sources %v", n)
	}
	if n, _ := w.repair(w.repo); n != 3 {
		t.Errorf("repair reports %d blobs", n)
	}
	// A sync that finds the blob listed makes the remote its source again.
	second.set(nil)
	w.sync(taskstore.TaskCompleted, nil)
	if n := sources(); n[w.remote.ID] != 2 || n[""] != 2 {
		t.Errorf("sources %v", n)
	}
	shared.RemoteID = w.remote.ID
	if err := w.pull(w.repo, shared); err != nil {
		t.Errorf("pulled: %v", err)
	}
}

// A failed or canceled sync adds no sources; the next one does.
func TestFailedSyncAddsNoSources(t *testing.T) {
	t.Parallel()
	g := newRemote(t)
	fillRemote(g)
	w := newMirror(t, g, func(r *pulp.Remote) { r.Policy = pulp.OnDemand })
	w.sync(taskstore.TaskCompleted, nil)
	w.deleteRemote(w.remote)
	w.remote = w.recreate("src", nil)
	g.image("two", []int{60_000}, "two")
	g.set(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") { // the config of the new image
			w.WriteHeader(http.StatusForbidden)
			return true
		}
		return false
	})
	w.sync(taskstore.TaskFailed, nil)
	w.wantSource(w.repo, 4, "")
	g.set(nil)
	w.sync(taskstore.TaskCompleted, nil)
	w.wantSource(w.repo, 5, w.remote.ID)
}

// Copies of absent blobs have the same sources. When the original is synced again, copying again restores the
// copies.
func TestCopiesOfAbsentBlobs(t *testing.T) {
	t.Parallel()
	g := newRemote(t)
	fillRemote(g)
	w := newMirror(t, g, func(r *pulp.Remote) { r.Policy = pulp.OnDemand })
	w.sync(taskstore.TaskCompleted, nil)
	to, err := w.store.Catalog.CreateRepository(t.Context(), pulp.Repository{Type: pulp.Container, Name: "copy/app"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	again := func() {
		t.Helper()
		if _, err := w.store.Content.CopyContent(t.Context(), nil, to.ID, content.Copy{RepositoryID: w.repo.ID, Number: 1, Tags: true}); err != nil {
			t.Fatal(err)
		}
	}
	again()
	w.wantSource(to, 4, w.remote.ID)
	w.deleteRemote(w.remote)
	w.wantSource(to, 4, "")
	if n, _ := w.repair(to); n != 4 {
		t.Errorf("repair reports %d blobs", n)
	}
	again()
	w.wantSource(to, 4, "")
	w.remote = w.recreate("src", nil)
	w.sync(taskstore.TaskCompleted, nil)
	w.wantSource(to, 4, "")
	again()
	w.wantSource(to, 4, w.remote.ID)
	// A blob arrives in the original from elsewhere; the copy stays absent until it is copied again.
	blob := w.absent(w.repo)[0]
	got, err := w.blobs.Receive(t.Context(), "dst/app", blob.Digest, bytes.NewReader(g.bytesOf(blob.Digest)))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.store.Content.CommitBlob(t.Context(), w.repo.ID, got, "", 0); err != nil {
		t.Fatal(err)
	}
	w.wantSource(w.repo, 3, w.remote.ID)
	w.wantSource(to, 4, w.remote.ID)
	again()
	w.wantSource(to, 3, w.remote.ID)
}

// Losing and regaining a remote gives a repository no bytes of another tenant: only a remote with the bytes is
// a source.
func TestSourcesGiveNoAccessToBlobsOfOthers(t *testing.T) {
	t.Parallel()
	g := newRemote(t)
	fillRemote(g)
	w := newMirror(t, g, func(r *pulp.Remote) { r.Policy = pulp.OnDemand })
	w.sync(taskstore.TaskCompleted, nil)
	victim, err := w.store.Catalog.PushTarget(t.Context(), catalog.FirstPush{BasePath: "victim/app", Type: pulp.ContainerPush})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range w.absent(w.repo) {
		got, err := w.blobs.Receive(t.Context(), "victim/app", b.Digest, bytes.NewReader(g.bytesOf(b.Digest)))
		if err != nil {
			t.Fatal(err)
		}
		err = w.blobs.Record(t.Context(), got, func(ctx context.Context, b pulp.Blob) error {
			return w.store.Content.CommitBlob(ctx, victim.Repository.ID, b, "", 0)
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.store.Catalog.SetPrivate(t.Context(), "victim/app", true); err != nil {
		t.Fatal(err)
	}
	g.set(func(w http.ResponseWriter, r *http.Request) bool { // the remote knows the digests, not the bytes
		if strings.Contains(r.URL.Path, "/blobs/") {
			w.WriteHeader(http.StatusNotFound)
			return true
		}
		return false
	})
	w.deleteRemote(w.remote)
	w.wantSource(w.repo, 4, "")
	w.remote = w.recreate("dst/src", nil)
	mallory, err := w.store.Accounts.PutUser(t.Context(), "dst", "", false, true)
	if err != nil {
		t.Fatal(err)
	}
	storetest.Own(t, w.store, "dst")
	k, err := w.dispatcher.Dispatch(context.WithoutCancel(t.Context()), tasks.ByUser(mallory.ID), tasks.Spec{
		Name: tasks.Sync, Args: tasks.SyncArgs{RepositoryID: w.repo.ID, RemoteID: w.remote.ID}, Immediate: true,
	})
	if err != nil || k.State != taskstore.TaskCompleted {
		t.Fatalf("the task is %s %+v, %v", k.State, k.Error, err)
	}
	for _, b := range w.absent(w.repo) {
		if b.Data != nil {
			t.Errorf("%s has others' bytes", b.Digest)
		}
		if err := w.pull(w.repo, b); !fault.Is(err, fault.NotFound) {
			t.Errorf("pulled: %v", err)
		}
	}
	w.wantSource(w.repo, 4, "")
}
