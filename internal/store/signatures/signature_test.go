package signatures_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/signatures"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/internal/store/taskstore"
)

func TestPutSignatureOnce(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	to := storetest.Target(t, s, "acme/app")
	m, _ := storetest.PushImage(t, s, to.Repository.ID, "one", "v1")
	g := storetest.SignatureOf(t, s, to, m, "sig")
	v, err := s.Signatures.PutSignature(t.Context(), to.Repository.ID, m.Digest, g)
	if err != nil {
		t.Fatal(err)
	}
	storetest.WantCounts(t, v, storetest.Counts{
		Blobs:      pulp.Count{Present: 2},
		Manifests:  pulp.Count{Present: 1},
		Signatures: pulp.Count{Present: 1, Added: 1},
		Tags:       pulp.Count{Present: 1},
	})
	if v, err := s.Signatures.PutSignature(t.Context(), to.Repository.ID, m.Digest, g); v != nil || err != nil {
		t.Errorf("the same signature again: %v, %v, want no version (recording 70b)", v, err)
	}
	if _, err := s.Signatures.PutSignature(t.Context(), to.Repository.ID, digest.FromString("no"), g); !fault.Is(err, fault.NotFound) {
		t.Errorf("a signature of an absent manifest: %v, want NotFound", err)
	}
	got, err := s.Serving.ServedSignatures(t.Context(), to, g.ManifestID)
	if err != nil || len(got) != 1 || string(got[0].Content) != "sig" {
		t.Errorf("served: %v, %v", got, err)
	}
}

func TestSignaturesFitIntoOneAnswer(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	to := storetest.Target(t, s, "acme/app")
	m, _ := storetest.PushImage(t, s, to.Repository.ID, "one", "v1")
	var full error
	stored := 0
	for i := 0; i < 20 && full == nil; i++ {
		g := storetest.SignatureOf(t, s, to, m, fmt.Sprint(i, strings.Repeat("x", 300_000)))
		if _, full = s.Signatures.PutSignature(t.Context(), to.Repository.ID, m.Digest, g); full == nil {
			stored++
		}
	}
	if !fault.Is(full, fault.TooLarge) || stored != 9 { // 9 × 400 kB of base64 fit into 4 MB, 10 do not
		t.Errorf("%d signatures were taken, then %v; want 9, then TooLarge", stored, full)
	}
}

func TestSignTargets(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	to := storetest.Target(t, s, "acme/app")
	id := to.Repository.ID
	one, _ := storetest.PushImage(t, s, id, "one", "latest", "v1")
	amd, _ := storetest.PushImage(t, s, id, "amd64")
	arm, _ := storetest.PushImage(t, s, id, "arm64")
	absent := pulp.Manifest{Digest: digest.FromString("absent"), MediaType: pulp.OCIManifest}
	list := storetest.Index(amd, arm, absent)
	if _, err := s.Content.PutManifest(t.Context(), content.PutManifest{RepositoryID: id, Manifest: list, Tags: []string{"multi"}}); err != nil {
		t.Fatal(err)
	}
	storetest.PushImage(t, s, id, "cosign", "sha256-"+strings.Repeat("a", 64)+".sig")

	tests := map[string]struct {
		tags  []string
		lists bool
		want  []string
	}{
		"all tags, lists left out":    {nil, false, []string{"latest " + string(one.Digest), "multi " + string(amd.Digest), "multi " + string(arm.Digest), "v1 " + string(one.Digest)}},
		"one tag":                     {[]string{"v1"}, false, []string{"v1 " + string(one.Digest)}},
		"a list with the list itself": {[]string{"multi"}, true, []string{"multi " + string(list.Digest), "multi " + string(amd.Digest), "multi " + string(arm.Digest)}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			targets, err := s.Signatures.SignTargets(t.Context(), id, tt.tags, tt.lists)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, x := range targets {
				got = append(got, x.Tag+" "+string(x.Digest))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("targets (-want +got):\n%s", diff)
			}
		})
	}
	if _, err := s.Signatures.SignTargets(t.Context(), id, []string{"v1", "nosuch"}, false); !fault.Is(err, fault.Invalid) {
		t.Errorf("an unknown tag: %v, want Invalid (compatibility.md#tags-list)", err)
	}
	root := record.TaggedManifest{Tag: "multi", MediaType: pulp.OCIIndex}
	if err := s.DB.Read().QueryRowContext(t.Context(), `SELECT id, digest FROM manifest WHERE digest = $1`, list.Digest).Scan(&root.ID, &root.Digest); err != nil {
		t.Fatal(err)
	}
	for looked, want := range map[int]int{signatures.MaxWalk - 3: 2, signatures.MaxWalk - 2: -1} {
		got, err := signatures.Expand(t.Context(), s.DB.Read(), id, looked, root)
		if refused := fault.Is(err, fault.Invalid); refused != (want < 0) || !refused && (err != nil || len(got) != want) {
			t.Errorf("after %d manifests: %d, %v", looked, len(got), err)
		}
	}
}

func TestCommitStaged(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	to := storetest.Target(t, s, "acme/app")
	stays, _ := storetest.PushImage(t, s, to.Repository.ID, "stays", "v1")
	leaves, _ := storetest.PushImage(t, s, to.Repository.ID, "leaves", "v2")
	claim := storetest.StartTask(t, s)
	for _, m := range []pulp.Manifest{stays, leaves} {
		g := storetest.SignatureOf(t, s, to, m, "sig of "+string(m.Digest))
		for range 2 { // the second time changes nothing
			if err := s.Signatures.StageSignatures(t.Context(), claim, []pulp.Signature{g}); err != nil {
				t.Fatal(err)
			}
		}
	}
	staged, err := s.Signatures.Staged(t.Context(), claim.TaskID, "8F336A705074623F7FC3273945ACE14E3EBB9BBA")
	if err != nil || len(staged) != 2 {
		t.Fatalf("staged: %v, %v, want 2", staged, err)
	}
	if _, err := s.Content.DeleteManifest(t.Context(), to.Repository.ID, leaves.Digest); err != nil {
		t.Fatal(err)
	}
	v, err := s.Signatures.CommitStaged(t.Context(), claim, to.Repository.ID)
	if err != nil {
		t.Fatal(err)
	}
	storetest.WantCounts(t, v, storetest.Counts{
		Blobs:      pulp.Count{Present: 2},
		Manifests:  pulp.Count{Present: 1},
		Signatures: pulp.Count{Present: 1, Added: 1},
		Tags:       pulp.Count{Present: 1},
	})
	k, err := s.Tasks.Task(t.Context(), claim.TaskID)
	if err != nil || k.State != taskstore.TaskCompleted || len(k.Created) != 1 || k.Created[0].Href != pulp.VersionHref(pulp.ContainerPush, to.Repository.ID, v.Number) {
		t.Errorf("task = %+v, %v", k, err)
	}
	by, err := s.Signatures.SignedBy(t.Context(), to.Repository.ID, "8F336A705074623F7FC3273945ACE14E3EBB9BBA")
	if err != nil || len(by) != 1 || by[0].Reference != "localhost/acme/app:v1" {
		t.Errorf("SignedBy = %v, %v", by, err)
	}
}

func TestAFencedAttemptStoresNothing(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	to := storetest.Target(t, s, "acme/app")
	m, _ := storetest.PushImage(t, s, to.Repository.ID, "one", "v1")
	old := storetest.StartTask(t, s)
	g := storetest.SignatureOf(t, s, to, m, "sig")
	if err := s.Signatures.StageSignatures(t.Context(), old, []pulp.Signature{g}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Tasks.ReclaimTasks(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	again, err := s.Tasks.ClaimTask(t.Context(), "another", old.TaskID, nil, time.Minute)
	if err != nil || again == nil || again.Attempt != old.Attempt+1 {
		t.Fatalf("second claim: %+v, %v", again, err)
	}
	if _, err := s.Signatures.CommitStaged(t.Context(), old, to.Repository.ID); err != taskstore.ErrFenced { //nolint:errorlint // it returns the bare sentinel
		t.Errorf("the old attempt's commit = %v, want ErrFenced", err)
	}
	if err := s.Signatures.StageSignatures(t.Context(), old, []pulp.Signature{g}); err != taskstore.ErrFenced { //nolint:errorlint // it returns the bare sentinel
		t.Errorf("the old attempt's staging = %v, want ErrFenced", err)
	}
	if got, _ := s.Serving.ServedSignatures(t.Context(), to, g.ManifestID); len(got) != 0 {
		t.Errorf("%d signatures are served, want none", len(got))
	}
	v, err := s.Signatures.CommitStaged(t.Context(), &taskstore.Claim{TaskID: old.TaskID, Attempt: again.Attempt}, to.Repository.ID)
	if err != nil || v == nil {
		t.Errorf("the new attempt's commit = %v, %v, want what the old one had staged", v, err)
	}
}
