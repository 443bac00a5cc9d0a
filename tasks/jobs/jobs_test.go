package jobs_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/signonpush"
	"github.com/countersign/countersign/internal/signservice"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/accounts"
	"github.com/countersign/countersign/internal/store/catalog"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/signatures"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/signing/signtest"
	"github.com/countersign/countersign/storage"
	"github.com/countersign/countersign/storage/embedded"
	"github.com/countersign/countersign/tasks"
	"github.com/countersign/countersign/tasks/jobs"
	"github.com/countersign/countersign/tasks/memqueue"
)

// maker is a signer with a key in memory that a test can make fail.
type maker struct {
	t    *testing.T
	key  *signtest.Key
	mu   sync.Mutex
	made int
	fail func(n int) error // called with the number of the signature; an error is returned instead
}

func (m *maker) Sign(_ context.Context, r signing.Request) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.made++
	if m.fail != nil {
		if err := m.fail(m.made); err != nil {
			return nil, err
		}
	}
	return m.key.Sign(m.t, r.Claim, time.Now()), nil
}

// world is a worker with a real store. Its repository contains an image under two tags and an index of two
// images.
type world struct {
	*testing.T
	store      *store.Store
	maker      *maker
	dispatcher *tasks.Dispatcher
	repo       record.Target
	service    pulp.SigningService
	assigned   []string // names of the signing services that the configuration assigns to every repository
	signer     *signservice.Signer
	signOnPush *signonpush.Runner
	worker     *tasks.Worker
}

func newWorld(t *testing.T) *world {
	t.Helper()
	s := storetest.Open(t)
	log, queue := slog.New(slog.DiscardHandler), &memqueue.Queue{}
	w := &world{T: t, store: s, maker: &maker{t: t, key: signtest.NewKey(t, time.Now().Add(-time.Hour), 0)}}
	use := pulp.SigningUse{Assigned: func(string) []string { return w.assigned }}
	w.assigned = []string{"svc"}
	s.Signatures.SetPushPolicy(signatures.PushPolicy{Host: "registry.example:8443", Use: use})
	w.signer = &signservice.Signer{
		Store: s, Parallel: 4,
		SignerFor: func(pulp.SigningService) (signing.Signer, error) { return w.maker, nil }, Usable: func(pulp.SigningService) bool { return true },
	}
	w.signOnPush = &signonpush.Runner{Store: s, Log: log, Signer: w.signer, Timeout: time.Minute}
	worker := tasks.NewWorker(tasks.WorkerOptions{Store: s, Queue: queue, Log: log, Slots: 1, Jobs: jobs.All(jobs.Options{
		Store: s, Log: log, Host: "registry.example:8443", Parallel: 3,
		Signer: w.signer, SignOnPush: w.signOnPush, SigningUse: use,
	})})
	w.worker, w.dispatcher = worker, tasks.NewDispatcher(s, queue, worker, log)
	w.signOnPush.SignElsewhere, w.signOnPush.SignLater = w.signTasks().Sign, w.signTasks().SignLater
	var err error
	w.service, err = s.Signatures.AddSigningService(t.Context(), pulp.SigningService{
		Name: "svc", Class: pulp.ManifestSigningService, Kind: pulp.ServiceScript, Fingerprint: w.maker.key.Public.Fingerprint(), PublicKey: w.maker.key.Armor,
	})
	if err != nil {
		t.Fatal(err)
	}
	if w.repo, err = s.Catalog.PushTarget(t.Context(), catalog.FirstPush{BasePath: "acme/app", Type: pulp.ContainerPush}); err != nil {
		t.Fatal(err)
	}
	w.push("one", "latest", "v1")
	w.pushIndex("multi", w.push("amd64"), w.push("arm64"))
	return w
}

func (w *world) signTasks() jobs.SignTasks {
	return jobs.SignTasks{Store: w.store, Dispatch: w.dispatcher.Dispatch, Cancel: w.dispatcher.Cancel}
}

// serve runs the worker until the test ends.
func (w *world) serve() {
	w.Helper()
	ctx, stop := context.WithCancel(w.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- w.worker.Run(ctx, 0) }()
	w.Cleanup(func() {
		stop()
		if err := <-stopped; err != nil {
			w.Errorf("Run = %v", err)
		}
	})
}

func (w *world) push(text string, tags ...string) digest.Digest {
	w.Helper()
	b := pulp.Blob{Digest: digest.FromString(text), Size: int64(len(text)), Data: []byte(text), Inline: true}
	if err := w.store.Content.CommitBlob(w.Context(), w.repo.Repository.ID, b, "", 0); err != nil {
		w.Fatal(err)
	}
	payload := []byte(`{"config":"` + text + `"}`)
	m := pulp.Manifest{
		Digest: digest.FromBytes(payload), MediaType: pulp.OCIManifest, SchemaVersion: 2, Payload: payload, Type: "image",
		Config: &pulp.Descriptor{Digest: b.Digest},
	}
	if _, err := w.store.Content.PutManifest(w.Context(), content.PutManifest{RepositoryID: w.repo.Repository.ID, Manifest: m, Tags: tags}); err != nil {
		w.Fatal(err)
	}
	return m.Digest
}

func (w *world) pushIndex(tag string, children ...digest.Digest) {
	w.Helper()
	payload, err := json.Marshal(children)
	if err != nil {
		w.Fatal(err)
	}
	m := pulp.Manifest{Digest: digest.FromBytes(payload), MediaType: pulp.OCIIndex, SchemaVersion: 2, Payload: payload, Type: "index"}
	for _, d := range children {
		m.Children = append(m.Children, pulp.Descriptor{Digest: d})
	}
	if _, err := w.store.Content.PutManifest(w.Context(), content.PutManifest{RepositoryID: w.repo.Repository.ID, Manifest: m, Tags: []string{tag}}); err != nil {
		w.Fatal(err)
	}
}

// sign runs a sign task to its end.
func (w *world) sign(want taskstore.TaskState, change func(*tasks.SignArgs)) taskstore.Task {
	w.Helper()
	args := tasks.SignArgs{RepositoryID: w.repo.Repository.ID, ServiceID: w.service.ID, BasePath: "acme/app"}
	if change != nil {
		change(&args)
	}
	k, err := w.dispatcher.Dispatch(w.Context(), tasks.BySystem(), tasks.Spec{Name: tasks.Sign, Args: args, Immediate: true})
	if err != nil || k.State != want {
		w.Errorf("the task is %s %+v, %v, want %s", k.State, k.Error, err, want)
	}
	return k
}

// signatures returns the number of signatures in the latest version, and the number that it added.
func (w *world) signatures() (present, added int64) {
	w.Helper()
	r, err := w.store.Catalog.Repository(w.Context(), pulp.ContainerPush, w.repo.Repository.ID)
	if err != nil {
		w.Fatal(err)
	}
	v, err := w.store.Content.Version(w.Context(), r.ID, r.LatestVersion)
	if err != nil {
		w.Fatal(err)
	}
	n := v.Counts[pulp.KindSignature]
	return n.Present, n.Added
}

func (w *world) wantSignatures(present, added int64) {
	w.Helper()
	if p, a := w.signatures(); p != present || a != added {
		w.Errorf("the latest version holds %d signatures, %d new, want %d, %d", p, a, present, added)
	}
}

func TestSignTask(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.sign(taskstore.TaskCompleted, nil)
	w.wantSignatures(4, 4) // latest, v1, and two images of multi
	if len(k.Created) != 1 || len(k.Progress) != 1 || *k.Progress[0].Total != 4 || k.Progress[0].Done != 4 || k.Progress[0].State != taskstore.TaskCompleted {
		t.Errorf("task = %+v", k)
	}
	m, err := w.store.Serving.ServedManifest(t.Context(), w.repo, "v1")
	if err != nil {
		t.Fatal(err)
	}
	held, err := w.store.Serving.ServedSignatures(t.Context(), w.repo, m.ID)
	if err != nil {
		t.Fatal(err)
	}
	var references []string
	for _, g := range held {
		v, err := signing.Verify(g.Content, w.maker.key.Public, time.Now())
		if err != nil || v.Claim().ManifestDigest != m.Digest || g.Name != signing.Name(m.Digest, g.Content) || g.VerifiedBy != w.service.Fingerprint {
			t.Errorf("a stored signature: %+v, %v", g, err)
		}
		references = append(references, v.Claim().DockerReference)
	}
	slices.Sort(references)
	if want := []string{"registry.example:8443/acme/app:latest", "registry.example:8443/acme/app:v1"}; !slices.Equal(references, want) {
		t.Errorf("references %v, want %v", references, want)
	}

	// nothing to sign again: compatibility.md#signing-again
	if k := w.sign(taskstore.TaskCompleted, nil); len(k.Created) != 0 || w.maker.made != 4 {
		t.Errorf("signing again made %d more and %v", w.maker.made-4, k.Created)
	}
	w.sign(taskstore.TaskCompleted, func(a *tasks.SignArgs) { a.Tags = []string{"v1"}; a.BasePath = "acme/other" })
	w.wantSignatures(5, 1)
	w.sign(taskstore.TaskCompleted, func(a *tasks.SignArgs) { a.SignLists = true })
	w.wantSignatures(6, 1) // of the list itself
	made := w.maker.made
	w.sign(taskstore.TaskCompleted, func(a *tasks.SignArgs) { a.Force, a.Tags = true, []string{"multi"} })
	if w.maker.made != made+2 {
		t.Errorf("force made %d, want 2", w.maker.made-made)
	}
	k = w.sign(taskstore.TaskFailed, func(a *tasks.SignArgs) { a.Tags = []string{"nosuch"} })
	if k.Error == nil || k.Error.Description != "tags_list: The tag 'nosuch' does not exist in the latest repository version." {
		t.Errorf("an unknown tag: %+v", k.Error)
	}
}

func TestFailedSignTaskCreatesNoVersion(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.maker.fail = func(n int) error {
		if n == 3 {
			return fault.New(fault.Invalid, "gpg: signing failed: No secret key")
		}
		return nil
	}
	k := w.sign(taskstore.TaskFailed, nil)
	if k.Error == nil || k.Error.Description != "gpg: signing failed: No secret key" || len(k.Created) != 0 || k.Progress[0].State != taskstore.TaskFailed {
		t.Errorf("task = %+v", k)
	}
	w.wantSignatures(0, 0)
	w.maker.fail = nil
	w.sign(taskstore.TaskCompleted, nil)
	w.wantSignatures(4, 4)

	other := signtest.NewKey(t, time.Now().Add(-time.Hour), 0)
	w.maker.key = other // the script signs with another key
	w.push("late", "late")
	if k := w.sign(taskstore.TaskFailed, nil); k.Error == nil || k.Error.Description == "" {
		t.Errorf("task = %+v", k)
	}
	w.wantSignatures(4, 0)
	if err := w.store.Signatures.RemoveSigningService(t.Context(), "svc", pulp.ManifestSigningService); err != nil {
		t.Fatal(err)
	}
	w.sign(taskstore.TaskFailed, nil)
}

func TestEditAndDelete(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	text, retain := "about", int64(3)
	run := func(spec tasks.Spec) taskstore.Task {
		spec.Immediate = true
		k, err := w.dispatcher.Dispatch(t.Context(), tasks.BySystem(), spec)
		if err != nil || k.State != taskstore.TaskCompleted {
			t.Errorf("%s: %s %+v, %v", spec.Name, k.State, k.Error, err)
		}
		return k
	}
	run(tasks.Spec{Name: tasks.Edit, Args: tasks.EditArgs{Collection: pulp.PushCollection, ID: w.repo.Repository.ID, Repository: &tasks.RepositoryFields{
		Description: tasks.Optional[string]{Set: true, Value: &text}, RetainRepoVersions: tasks.Optional[int64]{Set: true, Value: &retain},
		SigningServiceID: &w.service.ID, Labels: &map[string]*string{"a": nil},
	}}})
	r, err := w.store.Catalog.Repository(t.Context(), pulp.ContainerPush, w.repo.Repository.ID)
	if err != nil || *r.Description != text || *r.RetainRepoVersions != 3 || r.SigningServiceID != w.service.ID || len(r.Labels) != 1 || r.Name != "acme/app" {
		t.Errorf("edited: %+v, %v", r, err)
	}
	run(tasks.Spec{Name: tasks.Edit, Args: tasks.EditArgs{Collection: pulp.PushCollection, ID: r.ID, Repository: &tasks.RepositoryFields{Description: tasks.Optional[string]{Set: true}}}})
	if r, err = w.store.Catalog.Repository(t.Context(), pulp.ContainerPush, r.ID); err != nil || r.Description != nil || r.SigningServiceID == "" {
		t.Errorf("edited again: %+v, %v", r, err)
	}
	run(tasks.Spec{Name: tasks.DeleteDistribution, Args: tasks.ObjectArgs{Collection: pulp.DistributionCollection, ID: w.repo.Distribution.ID}})
	if _, err := w.store.Catalog.Repository(t.Context(), pulp.ContainerPush, r.ID); !fault.Is(err, fault.NotFound) {
		t.Errorf("the repository that a push made is still there: %v", err)
	}
	run(tasks.Spec{Name: tasks.Purge, Args: tasks.PurgeArgs{FinishedBefore: time.Now().Add(time.Hour).UnixMicro(), States: []taskstore.TaskState{taskstore.TaskCompleted}}})
	// the purge task itself
	if left, n, err := w.store.Lists.Tasks(t.Context(), list.Query{Limit: 10}); err != nil || n != 1 {
		t.Errorf("%d tasks are left, %v, %v", n, left, err)
	}
}

func TestHousekeeping(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	files, err := embedded.New(t.Context(), embedded.Options{Driver: "filesystem", Parameters: map[string]any{"rootdirectory": t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	keep := func(text string) digest.Digest { // stores a blob in the storage and as pending in the repository
		u, err := files.Create(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		d := digest.FromString(text)
		if _, err := u.ReadFrom(bytes.NewReader([]byte(text))); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(u.Commit(t.Context(), d), w.store.Content.CommitBlob(t.Context(), w.repo.Repository.ID, pulp.Blob{Digest: d, Size: int64(len(text))}, "", 0)); err != nil {
			t.Fatal(err)
		}
		return d
	}
	forgotten, named := keep("forgotten"), keep("named")
	payload := []byte(fmt.Sprintf("{%q}", named))
	m := pulp.Manifest{Digest: digest.FromBytes(payload), MediaType: pulp.OCIManifest, SchemaVersion: 2, Payload: payload, Type: "image", Config: &pulp.Descriptor{Digest: named}}
	if _, err := w.store.Content.PutManifest(t.Context(), content.PutManifest{RepositoryID: w.repo.Repository.ID, Manifest: m}); err != nil {
		t.Fatal(err)
	}
	row, err := w.store.Uploads.CreateUpload(t.Context(), w.repo.Repository.ID)
	if err != nil {
		t.Fatal(err)
	}
	u, err := files.Create(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.ReadFrom(bytes.NewReader([]byte("half"))); err != nil {
		t.Fatal(err)
	}
	row.StorageRef, row.Size = u.Ref(), u.Size()
	if _, err := w.store.Uploads.SaveUpload(t.Context(), row); err != nil {
		t.Fatal(err)
	}
	keeper := jobs.Housekeeper{Store: w.store, Storage: files, Log: slog.New(slog.DiscardHandler), Embedded: true}
	keeper.Keep = jobs.Retention{Uploads: time.Hour, Pending: time.Hour, Orphans: time.Hour, Tasks: time.Hour, Audit: time.Hour, Events: time.Hour}
	entry := audit.Entry{ID: pulp.NewID(), At: time.Now(), Action: "x", Result: audit.Done, Details: []byte(`{}`)}
	if err := w.store.Audits.Add(t.Context(), []audit.Entry{entry}); err != nil {
		t.Fatal(err)
	}
	long := time.Now().Add(-accounts.ExpiredKept - time.Minute)
	expired, _, err := w.store.Accounts.CreateAPIToken(t.Context(), access.APIToken{
		AccountID: storetest.User(t, w.store, "alice").ID, Name: "x", Expires: &long,
	})
	if err != nil {
		t.Fatal(err)
	}
	entries := func() int64 {
		_, n, err := list.AuditList.Rows(t.Context(), w.store.Lists, list.Query{Limit: 1})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	has := func(d digest.Digest) bool {
		_, err := files.Stat(t.Context(), "", d)
		return err == nil
	}
	if err := keeper.Clean(t.Context()); err != nil || !has(forgotten) || entries() != 1 {
		t.Errorf("a young blob, manifest or audit entry was deleted, %v", err)
	}
	if _, err := w.store.Uploads.Upload(t.Context(), w.repo.Repository.ID, row.ID); err != nil {
		t.Errorf("a young upload: %v", err)
	}
	if _, err := w.store.Accounts.APIToken(t.Context(), expired.ID); !fault.Is(err, fault.NotFound) {
		t.Errorf("an API token that expired long ago: %v, want NotFound", err)
	}
	// everything is older than its retention
	keeper.Keep = jobs.Retention{Uploads: -time.Hour, Pending: -time.Hour, Orphans: -time.Hour, Tasks: -time.Hour, Audit: -time.Hour, Events: -time.Hour}
	if err := keeper.Clean(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := entries(); n != 0 {
		t.Errorf("%d old audit entries are left", n)
	}
	if _, err := w.store.Uploads.Upload(t.Context(), w.repo.Repository.ID, row.ID); !fault.Is(err, fault.NotFound) {
		t.Errorf("an old upload: %v, want NotFound", err)
	}
	if _, err := files.Resume(t.Context(), "", row.StorageRef, 0); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("an old upload's bytes: %v, want ErrNotFound", err)
	}
	if has(forgotten) || !has(named) {
		t.Errorf("forgotten is there: %v, named is there: %v", has(forgotten), has(named))
	}
	// A manifest that is pending by digest stays with everything that it references
	// (compatibility.md#pending-content), and so does the content of all versions.
	for _, d := range []digest.Digest{m.Digest} {
		if _, err := w.store.Serving.ServedManifest(t.Context(), w.repo, string(d)); err != nil {
			t.Errorf("a pending manifest: %v", err)
		}
	}
	if _, err := w.store.Serving.ServedBlob(t.Context(), w.repo, digest.FromString("one")); err != nil {
		t.Errorf("a blob of a version: %v", err)
	}
	// The same bytes may be pushed again.
	if keep("forgotten"); !has(forgotten) {
		t.Error("a blob that was removed does not come back")
	}
	if err := w.store.Catalog.DeleteDistribution(t.Context(), nil, w.repo.Distribution.ID); err != nil {
		t.Fatal(err)
	}
	for range 2 { // manifests are deleted after the content that references them
		if err := keeper.Clean(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if has(named) || has(forgotten) {
		t.Error("blobs of a repository that is gone stay behind")
	}
	if _, n, err := w.store.Lists.Manifests(t.Context(), list.Query{Limit: 1}); err != nil || n != 0 {
		t.Errorf("%d manifests stay behind, %v", n, err)
	}
}

// TestSignTasksCheckTheUseOfTheService expects that a task signs only if its repository may still use the
// service, or if its user is an administrator.
func TestSignTasksCheckTheUseOfTheService(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		by   pulp.Assigner // "none": the service is not assigned any more
		user string        // the user of the task: "", staff, owner, or role, who is an owner and has the role to use the service
		want taskstore.TaskState
	}{
		"assigned by an administrator":   {by: pulp.AssignedByAdmin, user: "owner", want: taskstore.TaskCompleted},
		"assigned before the upgrade":    {by: pulp.AssignedEarlier, user: "owner", want: taskstore.TaskCompleted},
		"assigned by the owner":          {by: pulp.AssignedByOwner, user: "owner", want: taskstore.TaskFailed},
		"revoked":                        {by: "none", user: "owner", want: taskstore.TaskFailed},
		"never, by a user with the role": {by: "none", user: "role", want: taskstore.TaskCompleted},
		"revoked, of nobody":             {by: "none", want: taskstore.TaskFailed},
		"never, by an administrator":     {by: "none", user: "staff", want: taskstore.TaskCompleted},
		"by an administrator of before":  {by: "none", user: "demoted", want: taskstore.TaskFailed},
		"by a disabled administrator":    {by: "none", user: "disabled", want: taskstore.TaskFailed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.assigned = nil
			if c.by != "none" {
				if _, err := w.store.Catalog.EditRepository(t.Context(), nil, pulp.ContainerPush, w.repo.Repository.ID, func(r *pulp.Repository) {
					r.SigningServiceID, r.SigningAssigned = w.service.ID, c.by
				}); err != nil {
					t.Fatal(err)
				}
			}
			spec := tasks.Spec{Name: tasks.Sign, Args: tasks.SignArgs{RepositoryID: w.repo.Repository.ID, ServiceID: w.service.ID, BasePath: "acme/app"}, ServiceID: w.service.ID}
			from := tasks.BySystem()
			if c.user != "" {
				u, err := w.store.Accounts.PutUser(t.Context(), "acme", "x", c.user == "staff" || c.user == "disabled", c.user != "disabled")
				if err != nil {
					t.Fatal(err)
				}
				storetest.Own(t, w.store, "acme")
				if c.user == "role" {
					storetest.Grant(t, w.store, u.ID, "core.signingservice_user", access.Key(access.SigningService, w.service.ID))
				}
				from = tasks.ByUser(u.ID)
			}
			spec.Immediate = true
			k, err := w.dispatcher.Dispatch(t.Context(), from, spec)
			if err != nil || k.State != c.want {
				t.Fatalf("the task is %s %+v, %v, want %s", k.State, k.Error, err, c.want)
			}
			if c.want == taskstore.TaskFailed {
				if text := k.Error.Description; text != "The signing service svc is not assigned to the repository acme/app." && c.user != "disabled" {
					t.Errorf("the task failed with %q", k.Error.Description)
				}
				w.wantSignatures(0, 0)
			}
		})
	}
}
