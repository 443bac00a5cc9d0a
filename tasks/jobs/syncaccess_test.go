package jobs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/catalog"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/tasks"
)

// A user who may not read a blob must not get it by syncing from a remote that lists its digest.
func TestSyncGivesNoAccessToBlobsOfOthers(t *testing.T) {
	t.Parallel()
	for _, policy := range []pulp.Policy{pulp.Immediate, pulp.OnDemand} {
		g := newRemote(t)
		secret := bytes.Repeat([]byte("secret"), 1000)
		d := g.blob(secret)
		g.image("evil", []int{10})
		text := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":2},"layers":[{"mediaType":"a/b","digest":%q,"size":%d}]}`,
			pulp.OCIManifest, g.blob([]byte("{}")).Digest, d.Digest, d.Size)
		g.manifest(pulp.OCIManifest, text, "latest")
		g.set(func(w http.ResponseWriter, r *http.Request) bool { // the remote knows the digest, not the bytes
			if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, string(d.Digest)) {
				w.WriteHeader(http.StatusNotFound)
				return true
			}
			return false
		})
		w := newMirror(t, g, func(r *pulp.Remote) { r.Policy = policy })
		victim, err := w.store.Catalog.PushTarget(t.Context(), catalog.FirstPush{BasePath: "victim/app", Type: pulp.ContainerPush})
		if err != nil {
			t.Fatal(err)
		}
		got, err := w.blobs.Receive(t.Context(), "victim/app", d.Digest, bytes.NewReader(secret))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(w.store.Content.CommitBlob(t.Context(), victim.Repository.ID, got, "", 0), w.store.Catalog.SetPrivate(t.Context(), "victim/app", true)); err != nil {
			t.Fatal(err)
		}
		mallory, err := w.store.Accounts.PutUser(t.Context(), "dst", "", false, true)
		if err != nil {
			t.Fatal(err)
		}
		storetest.Own(t, w.store, "dst")
		k, err := w.dispatcher.Dispatch(context.WithoutCancel(t.Context()), tasks.ByUser(mallory.ID), tasks.Spec{
			Name: tasks.Sync, Args: tasks.SyncArgs{RepositoryID: w.repo.ID, RemoteID: w.remote.ID}, Immediate: true,
		})
		if policy == pulp.Immediate {
			if err != nil || k.State != taskstore.TaskFailed {
				t.Errorf("the task is %s, %v", k.State, err)
			}
			w.wantHeld(held{})
			continue
		}
		// On demand, the blob is absent and only fetched from that remote, which does not have it.
		if err != nil || k.State != taskstore.TaskCompleted {
			t.Errorf("the task is %s, %v", k.State, err)
		}
		b, err := w.store.Serving.ServedBlob(t.Context(), w.target(), d.Digest)
		if err != nil || !b.Absent || b.Data != nil {
			t.Errorf("the blob is %+v, %v", b, err)
		}
		if _, err := w.fetcher.Fetch(t.Context(), "c", w.repo, b); err == nil || strings.Contains(err.Error(), g.server.URL) && strings.HasPrefix(err.Error(), "4") {
			t.Errorf("fetched: %v", err)
		}
	}
}

// A remote that lists blobs of another tenant's on-demand mirror must not give access to that tenant's remote
// and credentials.
func TestAbsentBlobsComeFromTheirOwnRemote(t *testing.T) {
	t.Parallel()
	victims := newRemote(t)
	fillRemote(victims)
	w := newMirror(t, victims, func(r *pulp.Remote) { r.Policy = pulp.OnDemand })
	w.sync(taskstore.TaskCompleted, nil)
	absent, err := w.store.Content.AbsentBlobs(t.Context(), w.repo.ID)
	if err != nil || len(absent) == 0 {
		t.Fatal(absent, err)
	}
	mallory := newRemote(t)
	remote, err := w.store.Catalog.CreateRemote(t.Context(), pulp.Remote{Name: "mallory", URL: mallory.server.URL, UpstreamName: "src/app", Policy: pulp.OnDemand}, 0)
	if err != nil {
		t.Fatal(err)
	}
	repo, err := w.store.Catalog.CreateRepository(t.Context(), pulp.Repository{Type: pulp.Container, Name: "mallory/app"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range absent { // with a wrong size
		if err := w.store.Content.FetchedBlob(t.Context(), repo.ID, remote.ID, pulp.Blob{Digest: b.Digest, Size: 1, Absent: true}); err != nil {
			t.Fatal(err)
		}
		if err := w.store.Content.FetchedBlob(t.Context(), repo.ID, remote.ID, pulp.Blob{Digest: b.Digest, Size: 1, Absent: true}); err != nil {
			t.Fatal(err)
		}
		claimed := pulp.Blob{ID: b.ID, Digest: b.Digest, Size: 1, Absent: true, RemoteID: remote.ID}
		victims.count()
		if _, err := w.fetcher.Fetch(t.Context(), "c", repo, claimed); err == nil {
			t.Error("fetched")
		}
		if n := victims.count(); len(n) != 0 {
			t.Errorf("the victim's remote was asked %v", n)
		}
		served, err := w.store.Serving.ServedBlob(t.Context(), w.target(), b.Digest)
		if err != nil || served.Size == 1 || served.RemoteID != w.remote.ID {
			t.Errorf("the victim's blob is %+v, %v", served, err)
		}
	}
}

// If content is deleted during a sync that was to use it, the sync fails, and the next one fetches it.
func TestContentDeletedDuringASync(t *testing.T) {
	t.Parallel()
	g := newRemote(t)
	g.image("one", []int{50_000}, "latest")
	w := newMirror(t, g, nil)
	w.sync(taskstore.TaskCompleted, nil)
	held, err := w.store.Content.HeldTags(t.Context(), w.repo.ID)
	if err != nil {
		t.Fatal(err)
	}
	// The other image has the same layer; the first image is deleted while the sync requests the other's
	// manifest.
	m, err := w.store.Serving.ServedManifest(t.Context(), w.target(), "latest")
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := pulp.ParseManifest(m.Payload, m.MediaType)
	if err != nil {
		t.Fatal(err)
	}
	config := g.blob([]byte(`{"architecture":"arm64","os":"linux"}`))
	text := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[{"mediaType":"a/b","digest":%q,"size":%d}]}`,
		pulp.OCIManifest, config.Digest, config.Size, parsed.Layers[0].Digest, parsed.Layers[0].Size)
	g.manifest(pulp.OCIManifest, text, "latest")
	var once sync.Once
	g.set(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, string(config.Digest)) {
			once.Do(func() {
				if _, err := w.store.Content.DeleteManifest(t.Context(), w.repo.ID, held["latest"]); err != nil {
					t.Error(err)
				}
			})
		}
		return false
	})
	// In both orders the layer is there in the end.
	args := tasks.SyncArgs{RepositoryID: w.repo.ID, RemoteID: w.remote.ID}
	k, err := w.dispatcher.Dispatch(t.Context(), tasks.BySystem(), tasks.Spec{Name: tasks.Sync, Args: args, Immediate: true})
	if err != nil || k.State == taskstore.TaskFailed && !strings.Contains(k.Error.Description, "sync again") {
		t.Fatalf("%s %+v, %v", k.State, k.Error, err)
	}
	w.sync(taskstore.TaskCompleted, nil)
	if b, err := w.store.Serving.ServedBlob(t.Context(), w.target(), parsed.Layers[0].Digest); err != nil || b.Absent {
		t.Errorf("the layer: %+v, %v", b, err)
	}
}

func TestRepair(t *testing.T) {
	t.Parallel()
	g := newRemote(t)
	fillRemote(g)
	w := newMirror(t, g, nil)
	w.sync(taskstore.TaskCompleted, nil)
	held, err := w.store.Content.VersionBlobs(t.Context(), w.repo.ID, 1)
	if err != nil {
		t.Fatal(err)
	}
	var large []pulp.Blob
	for _, d := range held {
		b, err := w.store.Serving.Blob(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		if !b.Inline {
			large = append(large, b)
		}
	}
	if len(large) != 3 {
		t.Fatalf("%d large blobs", len(large))
	}
	// One blob is lost, one has other bytes.
	if err := w.blobs.Storage.Delete(t.Context(), "", large[0].Digest); err != nil {
		t.Fatal(err)
	}
	w.spoil(large[1].Digest)
	repair := func(name string, args any, corrupted, repaired int64) {
		t.Helper()
		k, err := w.dispatcher.Dispatch(t.Context(), tasks.BySystem(), tasks.Spec{Name: name, Immediate: true, Args: args})
		if err != nil || k.State != taskstore.TaskCompleted || k.Progress[0].Done != corrupted || k.Progress[1].Done != repaired {
			t.Errorf("repair: %s %+v %+v, %v", k.State, k.Error, k.Progress, err)
		}
	}
	version := func(read bool) any {
		return tasks.VersionArgs{RepositoryID: w.repo.ID, Number: 1, VerifyChecksums: read}
	}
	repair(tasks.Repair, version(false), 1, 1)
	repair(tasks.Repair, version(true), 1, 1)
	repair(tasks.Repair, version(true), 0, 0)
	// All content: a lost and a spoilt blob, and a manifest whose row has other bytes.
	if err := w.blobs.Storage.Delete(t.Context(), "", large[0].Digest); err != nil {
		t.Fatal(err)
	}
	w.spoil(large[1].Digest)
	storetest.Exec(t, w.store, `UPDATE manifest SET payload = $1 WHERE type = 'index'`, []byte("{}"))
	repair(tasks.RepairAll, tasks.RepairAllArgs{}, 1, 1)
	repair(tasks.RepairAll, tasks.RepairAllArgs{VerifyChecksums: true}, 2, 1)
	repair(tasks.RepairAll, tasks.RepairAllArgs{VerifyChecksums: true}, 1, 0)
	storetest.Exec(t, w.store, `DELETE FROM blob_source`)
	w.spoil(large[2].Digest)
	if err := w.store.Catalog.DeleteRemote(t.Context(), nil, w.remote.ID); err != nil {
		t.Fatal(err)
	}
	repair(tasks.Repair, version(true), 1, 0)
}

// spoil changes the bytes of a blob in the storage.
func (w *mirrorWorld) spoil(d digest.Digest) {
	w.Helper()
	content, size, err := w.blobs.Storage.Open(w.Context(), "", d)
	if err != nil {
		w.Fatal(err)
	}
	name := content.(*os.File).Name()
	_ = content.Close()
	if err := os.WriteFile(name, bytes.Repeat([]byte("!"), int(size)), 0o600); err != nil {
		w.Fatal(err)
	}
}
