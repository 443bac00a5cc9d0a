package jobs_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/eventually"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/signservice"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/tasks"
	"github.com/countersign/countersign/tasks/jobs"
)

// signingOnPush returns a world whose repository signs on push.
func signingOnPush(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.sign(taskstore.TaskCompleted, nil) // the existing tags
	yes := true
	w.dispatch(taskstore.TaskCompleted, tasks.Edit, tasks.EditArgs{Collection: pulp.PushCollection, ID: w.repo.Repository.ID, Repository: &tasks.RepositoryFields{
		SigningServiceID: &w.service.ID, SignOnPush: &yes,
	}})
	return w
}

func (w *world) dispatch(want taskstore.TaskState, name string, args any) taskstore.Task {
	w.Helper()
	k, err := w.dispatcher.Dispatch(w.Context(), tasks.BySystem(), tasks.Spec{Name: name, Args: args, Immediate: true})
	if err != nil || k.State != want {
		w.Errorf("%s is %s %+v, %v, want %s", name, k.State, k.Error, err, want)
	}
	return k
}

// put puts a manifest with one blob into the repository, like a push.
func (w *world) put(text string, tags ...string) (digest.Digest, error) {
	w.Helper()
	return w.putWhen(nil, text, tags...)
}

// putWhen is put with a condition about the tags' present digests.
func (w *world) putWhen(when func(digest.Digest) bool, text string, tags ...string) (digest.Digest, error) {
	w.Helper()
	b := pulp.Blob{Digest: digest.FromString(text), Size: int64(len(text)), Data: []byte(text), Inline: true}
	if err := w.store.Content.CommitBlob(w.Context(), w.repo.Repository.ID, b, "", 0); err != nil {
		w.Fatal(err)
	}
	payload := []byte(`{"config":"` + text + `"}`)
	p := content.PutManifest{RepositoryID: w.repo.Repository.ID, Tags: tags, When: when, Manifest: pulp.Manifest{
		Digest: digest.FromBytes(payload), MediaType: pulp.OCIManifest, SchemaVersion: 2, Payload: payload, Type: "image", Config: &pulp.Descriptor{Digest: b.Digest},
	}}
	return p.Manifest.Digest, w.signOnPush.Run(w.Context(), signservice.Caller{User: "alice"}, func(ctx context.Context) error {
		_, err := w.store.Content.PutManifest(ctx, p)
		return err
	})
}

// wantSigned checks every visible tag of every distribution of the repository: there must be a valid signature
// for that path.
func (w *world) wantSigned() {
	w.Helper()
	served, err := w.store.Catalog.RepositoryDistributions(w.Context(), w.repo.Repository.ID)
	if err != nil {
		w.Fatal(err)
	}
	targets, err := w.store.Signatures.SignTargets(w.Context(), w.repo.Repository.ID, nil, false)
	if err != nil {
		w.Fatal(err)
	}
	for _, d := range served {
		target, err := w.store.Serving.Resolve(w.Context(), d.BasePath)
		if err != nil {
			w.Fatal(err)
		}
		for _, s := range targets {
			held, err := w.store.Serving.ServedSignatures(w.Context(), target, s.ManifestID)
			if err != nil {
				w.Fatal(err)
			}
			want := "registry.example:8443/" + d.BasePath + ":" + s.Tag
			if !slices.ContainsFunc(held, func(g pulp.Signature) bool {
				v, err := signing.Verify(g.Content, w.maker.key.Public, time.Now())
				return err == nil && v.Claim().ManifestDigest == s.Digest && v.Claim().DockerReference == want
			}) {
				w.Errorf("%s is not signed for %s", s.Digest, want)
			}
		}
	}
}

// Every change that makes a tag visible in a repository that signs on push must sign it in the same version.
func TestVisibleTagsAreSigned(t *testing.T) {
	t.Parallel()
	w := signingOnPush(t)
	id := w.repo.Repository.ID
	d, err := w.put("two", "v2", "stable")
	if err != nil {
		t.Fatal(err)
	}
	w.wantSignatures(6, 2)
	w.wantSigned()
	w.dispatch(taskstore.TaskCompleted, tasks.Tag, tasks.TagArgs{RepositoryID: id, Tag: "v2-again", Digest: d})
	w.wantSigned()
	w.wantSignatures(7, 1)

	// A distribution needs signatures for its path. A changed path is another path.
	name, path, other := "second", "acme/second", "acme/third"
	k := w.dispatch(taskstore.TaskCompleted, tasks.Create, tasks.CreateArgs{Distribution: tasks.DistributionFields{Name: &name, BasePath: &path, RepositoryID: &id}})
	w.wantSigned()
	made, err := w.store.Serving.Resolve(t.Context(), path)
	if err != nil {
		t.Fatal(k.Error, err)
	}
	w.dispatch(taskstore.TaskCompleted, tasks.Edit, tasks.EditArgs{Collection: pulp.DistributionCollection, ID: made.Distribution.ID, Distribution: &tasks.DistributionFields{BasePath: &other}})
	w.wantSigned()

	// After a roll-back the images are visible under two paths, and were signed for one.
	r, err := w.store.Catalog.Repository(t.Context(), pulp.ContainerPush, id)
	if err != nil {
		t.Fatal(err)
	}
	w.dispatch(taskstore.TaskCompleted, tasks.RemoveContent, tasks.RemoveArgs{RepositoryID: id, All: true})
	w.dispatch(taskstore.TaskCompleted, tasks.Restore, tasks.VersionArgs{RepositoryID: id, Number: 1})
	w.wantSigned()
	w.dispatch(taskstore.TaskCompleted, tasks.Restore, tasks.VersionArgs{RepositoryID: id, Number: r.LatestVersion})
	w.wantSigned()

	// A copy contains tags without signatures for this repository.
	source, err := w.store.Catalog.CreateRepository(t.Context(), pulp.Repository{Type: pulp.Container, Name: "source"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	r, err = w.store.Catalog.Repository(t.Context(), pulp.ContainerPush, id)
	if err != nil {
		t.Fatal(err)
	}
	all := content.Copy{RepositoryID: id, Number: r.LatestVersion, Tags: true}
	w.dispatch(taskstore.TaskCompleted, tasks.AddContent, tasks.AddArgs{RepositoryID: source.ID, Copy: &all})
	w.dispatch(taskstore.TaskCompleted, tasks.Tag, tasks.TagArgs{RepositoryID: source.ID, Tag: "copied", Digest: d})
	back := content.Copy{RepositoryID: source.ID, Number: 2, Tags: true}
	w.dispatch(taskstore.TaskCompleted, tasks.AddContent, tasks.AddArgs{RepositoryID: id, Copy: &back})
	w.wantSigned()
	if _, err := w.store.Serving.ServedManifest(t.Context(), w.repo, "copied"); err != nil {
		t.Errorf("the copied tag: %v", err)
	}

	// A version without signatures for a path cannot be pinned there.
	pinned, fourth := "pinned", "acme/fourth"
	versions, _, err := w.store.Lists.Versions(t.Context(), list.Query{Where: []list.Filter{list.Where("number", list.Equal, int64(1))}, Limit: 10})
	if err != nil || len(versions) == 0 {
		t.Fatal(versions, err)
	}
	for _, v := range versions {
		if v.RepositoryID != id {
			continue
		}
		k = w.dispatch(taskstore.TaskFailed, tasks.Create, tasks.CreateArgs{Distribution: tasks.DistributionFields{
			Name: &pinned, BasePath: &fourth, Version: tasks.Optional[pulp.PinnedVersion]{Set: true, Value: &pulp.PinnedVersion{VersionID: v.ID, RepositoryID: id, Number: 1}},
		}})
		if k.Error == nil || k.Error.Description != "repository_version: The version holds the tag 'latest', which is not signed for this base path, and versions do not change." {
			t.Errorf("a pinned version that is not signed: %+v", k.Error)
		}
	}
}

// An image that completes a list is signed for the list's tags, too.
func TestImageThatCompletesAList(t *testing.T) {
	t.Parallel()
	w := signingOnPush(t)
	late := digest.FromBytes([]byte(`{"config":"late"}`))
	if err := w.signOnPush.Run(t.Context(), signservice.Caller{}, func(context.Context) error {
		w.pushIndex("sparse", late) // no image of it is here, so there is nothing to sign
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.put("late", "by-itself"); err != nil {
		t.Fatal(err)
	}
	w.wantSigned()
}

// The images of a list that waits for its signatures are not deleted as orphans.
func TestWaitingListKeepsItsImages(t *testing.T) {
	t.Parallel()
	w := signingOnPush(t)
	child, err := w.put("child")
	if err != nil {
		t.Fatal(err)
	}
	payload := []byte(`{"list":1}`)
	p := content.PutManifest{RepositoryID: w.repo.Repository.ID, Tags: []string{"multi"}, Manifest: pulp.Manifest{
		Digest: digest.FromBytes(payload), MediaType: pulp.OCIIndex, SchemaVersion: 2, Payload: payload, Type: "index", Children: []pulp.Descriptor{{Digest: child}},
	}}
	var v *pulp.Version
	swept := -1
	err = w.signOnPush.Run(t.Context(), signservice.Caller{User: "alice"}, func(ctx context.Context) (err error) {
		if v, err = w.store.Content.PutManifest(ctx, p); err == nil {
			return nil
		}
		soon := time.Now().Add(time.Second)
		manifests, sweepErr := w.store.Sweeps.SweepPendingManifests(ctx, soon, 100)
		blobs, blobErr := w.store.Sweeps.SweepPending(ctx, soon, 100)
		swept = int(manifests + blobs)
		return errors.Join(err, sweepErr, blobErr)
	})
	if err != nil || swept != 0 || v == nil || v.Counts[pulp.KindManifest].Added != 2 || v.Counts[pulp.KindBlob].Added != 1 {
		t.Errorf("%d swept; the version is %+v, %v", swept, v, err)
	}
	w.wantSigned()
}

func TestPushThatCannotBeSigned(t *testing.T) {
	t.Parallel()
	w := signingOnPush(t)
	broken := func(int) error { return fault.New(fault.Invalid, "gpg: signing failed: No secret key") }
	w.maker.fail = broken
	if _, err := w.put("bad", "v1"); !fault.Is(err, fault.Unavailable) {
		t.Errorf("the push: %v", err)
	}
	if m, err := w.store.Serving.ServedManifest(t.Context(), w.repo, "v1"); err != nil || string(m.Payload) != `{"config":"one"}` {
		t.Errorf("the tag was moved: %s, %v", m.Payload, err)
	}
	if k := w.dispatch(taskstore.TaskFailed, tasks.Tag, tasks.TagArgs{RepositoryID: w.repo.Repository.ID, Tag: "new", Digest: digest.FromBytes([]byte(`{"config":"one"}`))}); k.Error == nil {
		t.Errorf("task = %+v", k)
	}
	w.signOnPush.AcceptUnsigned = true
	if _, err := w.put("bad", "v1"); err != nil {
		t.Errorf("the push that may be signed later: %v", err)
	}
	m, err := w.store.Serving.ServedManifest(t.Context(), w.repo, "v1")
	if err != nil || string(m.Payload) != `{"config":"bad"}` {
		t.Errorf("the tag was not moved: %s, %v", m.Payload, err)
	}
	k, err := w.store.Tasks.ClaimNext(t.Context(), taskstore.Wanted{WorkerID: "worker", Lease: time.Minute})
	if err != nil || k == nil || k.Name != tasks.Sign {
		t.Fatalf("no task signs it later: %+v, %v", k, err)
	}
	var args tasks.SignArgs
	if err := json.Unmarshal(k.Args, &args); err != nil || args.Who != "alice" {
		t.Errorf("the task signs for %q, %v, want alice", args.Who, err)
	}
}

// All of several concurrent pushes to one tag succeed, and no version contains it unsigned.
func TestConcurrentSignedPushes(t *testing.T) {
	t.Parallel()
	w := signingOnPush(t)
	const pushes = 24
	var all sync.WaitGroup
	for i := range pushes {
		all.Go(func() {
			if _, err := w.put(fmt.Sprintf("race %d", i), "race", fmt.Sprintf("race-%d", i)); err != nil {
				t.Errorf("push %d: %v", i, err)
			}
		})
	}
	all.Wait()
	w.wantSigned()
	r, err := w.store.Catalog.Repository(t.Context(), pulp.ContainerPush, w.repo.Repository.ID)
	if err != nil {
		t.Fatal(err)
	}
	for number := int64(1); number <= r.LatestVersion; number++ {
		v, err := w.store.Content.Version(t.Context(), r.ID, number)
		if err != nil {
			t.Fatal(err)
		}
		if tags, signatures := v.Counts[pulp.KindTag].Added, v.Counts[pulp.KindSignature].Added; number > r.LatestVersion-pushes && (tags != 2 || signatures != 2) {
			t.Errorf("version %d added %d tags and %d signatures", number, tags, signatures)
		}
	}
}

// Of several pushes that require an absent tag one succeeds. The others leave neither images nor signatures for
// the tag.
func TestConditionalSignedPushes(t *testing.T) {
	t.Parallel()
	w := signingOnPush(t)
	const pushes = 8
	var all sync.WaitGroup
	var lost [pushes]digest.Digest
	for i := range pushes {
		all.Go(func() {
			d, err := w.putWhen(func(current digest.Digest) bool { return current == "" }, fmt.Sprintf("demand %d", i), "fresh")
			if _, moved := errors.AsType[*content.TagMoved](err); moved {
				lost[i] = d
			} else if err != nil {
				t.Errorf("push %d: %v", i, err)
			}
		})
	}
	all.Wait()
	w.wantSigned()
	losers := 0
	for i, d := range lost {
		if d == "" {
			continue
		}
		losers++
		if _, err := w.store.Serving.ServedManifest(t.Context(), w.repo, string(d)); !fault.Is(err, fault.NotFound) {
			t.Errorf("a refused manifest is served: %v", err)
		}
		if _, err := w.put(fmt.Sprintf("demand %d", i), fmt.Sprintf("other-%d", i)); err != nil {
			t.Fatal(err)
		}
		m, err := w.store.Serving.ServedManifest(t.Context(), w.repo, string(d))
		if err != nil {
			t.Fatal(err)
		}
		held, err := w.store.Serving.ServedSignatures(t.Context(), w.repo, m.ID)
		if err != nil || len(held) != 1 || held[0].Reference != fmt.Sprintf("registry.example:8443/acme/app:other-%d", i) {
			t.Errorf("%d signatures, %v, %v", len(held), held, err)
		}
	}
	if losers != pushes-1 {
		t.Errorf("%d of %d were refused", losers, pushes)
	}
}

// If this process cannot use a service, a task that lists do not contain requests the signatures from another
// process.
func TestKeyOfAnotherProcess(t *testing.T) {
	t.Parallel()
	w := signingOnPush(t)
	w.signer.Usable = func(pulp.SigningService) bool { return false }
	w.signOnPush.SignElsewhere = jobs.SignTasks{Store: w.store, Cancel: w.dispatcher.Cancel, Dispatch: func(ctx context.Context, from tasks.Origin, s tasks.Spec) (taskstore.Task, error) {
		if s.ServiceID != w.service.ID {
			t.Errorf("the task is for %q", s.ServiceID)
		}
		s.Immediate = true // run in this process, which stands for the other one
		return w.dispatcher.Dispatch(ctx, from, s)
	}}.Sign
	if _, err := w.put("far", "far"); err != nil {
		t.Fatal(err)
	}
	w.wantSigned()
	shown, _, err := w.store.Lists.Tasks(t.Context(), list.Query{Limit: 100})
	if err != nil || slices.ContainsFunc(shown, func(k taskstore.Task) bool { return k.Name == tasks.SignMissing }) {
		t.Errorf("lists contain the internal task: %v", err)
	}
	w.signOnPush.Timeout = 50 * time.Millisecond
	w.signOnPush.SignElsewhere = w.signTasks().Sign // no worker runs the task
	if _, err := w.put("nobody", "far"); !fault.Is(err, fault.Unavailable) {
		t.Errorf("nobody signs: %v", err)
	}
	if k, err := w.store.Tasks.ClaimNext(t.Context(), taskstore.Wanted{WorkerID: "worker", Lease: time.Minute}); err != nil || k != nil {
		t.Errorf("the internal task remains after the request that waited for it: %+v, %v", k, err)
	}
}

// A task whose change cannot be signed because the key is unavailable waits without occupying a worker, and is
// retried when the key is available.
func TestTaskWaitsForTheKey(t *testing.T) {
	t.Parallel()
	w := signingOnPush(t)
	w.signOnPush.Timeout = 50 * time.Millisecond
	var here atomic.Bool
	w.signer.Usable = func(pulp.SigningService) bool { return here.Load() }
	args := tasks.TagArgs{RepositoryID: w.repo.Repository.ID, Tag: "new", Digest: digest.FromBytes([]byte(`{"config":"one"}`))}
	k, err := w.dispatcher.Dispatch(t.Context(), tasks.BySystem(), tasks.Spec{Name: tasks.Tag, Args: args, Immediate: true})
	if err != nil || k.State != taskstore.TaskWaiting {
		t.Fatalf("the task is %s (%v), %v; want it to wait", k.State, k.Error, err)
	}
	if _, err := w.store.Serving.ServedManifest(t.Context(), w.repo, "new"); !fault.Is(err, fault.NotFound) {
		t.Errorf("the tag is seen: %v", err)
	}
	here.Store(true)
	w.serve()
	eventually.True(t, time.Minute, func() bool {
		if k, err = w.store.Tasks.Task(t.Context(), k.ID); err != nil {
			t.Fatal(err)
		}
		return k.State.Final()
	}, "the task ends")
	if k.State != taskstore.TaskCompleted {
		t.Errorf("the task is %s (%v)", k.State, k.Error)
	}
	w.wantSigned()
}

// If the latest version is deleted, the one before it becomes visible under paths for which it was not signed.
func TestDeletedVersionShowsNothingUnsigned(t *testing.T) {
	t.Parallel()
	w := signingOnPush(t)
	id := w.repo.Repository.ID
	if _, err := w.put("two", "v2"); err != nil {
		t.Fatal(err)
	}
	name, path := "second", "acme/second"
	w.dispatch(taskstore.TaskCompleted, tasks.Create, tasks.CreateArgs{Distribution: tasks.DistributionFields{Name: &name, BasePath: &path, RepositoryID: &id}})
	w.wantSigned()
	r, err := w.store.Catalog.Repository(t.Context(), pulp.ContainerPush, id)
	if err != nil {
		t.Fatal(err)
	}
	w.dispatch(taskstore.TaskCompleted, tasks.DeleteVersion, tasks.VersionArgs{RepositoryID: id, Number: r.LatestVersion})
	w.wantSigned()
	if targets, err := w.store.Signatures.SignTargets(t.Context(), id, nil, false); err != nil || len(targets) == 0 {
		t.Errorf("nothing is shown at all: %v, %v", targets, err)
	}
}

// An image that is pushed by digest and completes a list under a visible tag is signed, too.
func TestImageByDigestThatCompletesAList(t *testing.T) {
	t.Parallel()
	w := signingOnPush(t)
	late := digest.FromBytes([]byte(`{"config":"late"}`))
	if err := w.signOnPush.Run(t.Context(), signservice.Caller{}, func(context.Context) error {
		w.pushIndex("sparse", late)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if d, err := w.put("late"); err != nil || d != late {
		t.Fatal(d, err)
	}
	w.wantSigned()
	targets, err := w.store.Signatures.SignTargets(t.Context(), w.repo.Repository.ID, []string{"sparse"}, false)
	if err != nil || len(targets) != 1 {
		t.Errorf("the list shows %v, %v", targets, err)
	}
}
