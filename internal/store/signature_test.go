package store

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

// signatureOf returns a signature row for a served manifest; its content is no real signature: the store does not look into it.
func signatureOf(t *testing.T, s *Store, to Target, m pulp.Manifest, content string) pulp.Signature {
	t.Helper()
	held, err := s.ServedManifest(t.Context(), to, string(m.Digest))
	if err != nil {
		t.Fatal(err)
	}
	return pulp.Signature{
		Digest: digest.FromString(content), Name: string(m.Digest) + "@x", ManifestID: held.ID, Content: []byte(content), KeyID: "45ACE14E3EBB9BBA",
		VerifiedBy: "8F336A705074623F7FC3273945ACE14E3EBB9BBA", Reference: "localhost/acme/app:v1", SignedAt: 1,
	}
}

// startTask makes a task on a repository and claims it.
func startTask(t *testing.T, s *Store, resources ...Resource) *Claim {
	t.Helper()
	k, err := s.CreateTask(t.Context(), NewTask{Name: "test", Origin: OriginSystem, Resources: resources})
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.ClaimTask(t.Context(), "worker", k.ID, nil, leaseForTests)
	if err != nil || got == nil {
		t.Fatalf("claim: %v, %v", got, err)
	}
	return &Claim{TaskID: k.ID, Attempt: got.Attempt}
}

func TestPutSignatureOnce(t *testing.T) {
	t.Parallel()
	s := open(t)
	to := target(t, s, "acme/app")
	m, _ := pushImage(t, s, to.Repository.ID, "one", "v1")
	g := signatureOf(t, s, to, m, "sig")
	v, err := s.PutSignature(t.Context(), to.Repository.ID, m.Digest, g)
	if err != nil {
		t.Fatal(err)
	}
	wantCounts(t, v, "2+0-0 1+0-0 1+1-0 1+0-0")
	if v, err := s.PutSignature(t.Context(), to.Repository.ID, m.Digest, g); v != nil || err != nil {
		t.Errorf("the same signature again: %v, %v, want no version (golden 70b)", v, err)
	}
	if _, err := s.PutSignature(t.Context(), to.Repository.ID, digest.FromString("no"), g); !fault.Is(err, fault.NotFound) {
		t.Errorf("a signature of an absent manifest: %v, want NotFound", err)
	}
	got, err := s.ServedSignatures(t.Context(), to, g.ManifestID)
	if err != nil || len(got) != 1 || string(got[0].Content) != "sig" {
		t.Errorf("served: %v, %v", got, err)
	}
}

func TestSignaturesFitIntoOneAnswer(t *testing.T) {
	t.Parallel()
	s := open(t)
	to := target(t, s, "acme/app")
	m, _ := pushImage(t, s, to.Repository.ID, "one", "v1")
	var full error
	stored := 0
	for i := 0; i < 20 && full == nil; i++ {
		g := signatureOf(t, s, to, m, fmt.Sprint(i, strings.Repeat("x", 300_000)))
		if _, full = s.PutSignature(t.Context(), to.Repository.ID, m.Digest, g); full == nil {
			stored++
		}
	}
	if !fault.Is(full, fault.TooLarge) || stored != 9 { // 9 × 400 kB of base64 fit into 4 MB, 10 do not
		t.Errorf("%d signatures were taken, then %v; want 9, then TooLarge", stored, full)
	}
}

func TestSignTargets(t *testing.T) {
	t.Parallel()
	s := open(t)
	to := target(t, s, "acme/app")
	id := to.Repository.ID
	one, _ := pushImage(t, s, id, "one", "latest", "v1")
	amd, _ := pushImage(t, s, id, "amd64")
	arm, _ := pushImage(t, s, id, "arm64")
	absent := pulp.Manifest{Digest: digest.FromString("absent"), MediaType: pulp.OCIManifest}
	list := index(amd, arm, absent)
	if _, err := s.PutManifest(t.Context(), PutManifest{RepositoryID: id, Manifest: list, Tags: []string{"multi"}}); err != nil {
		t.Fatal(err)
	}
	pushImage(t, s, id, "cosign", "sha256-"+strings.Repeat("a", 64)+".sig")

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
			targets, err := s.SignTargets(t.Context(), id, tt.tags, tt.lists)
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
	if _, err := s.SignTargets(t.Context(), id, []string{"v1", "nosuch"}, false); !fault.Is(err, fault.Invalid) {
		t.Errorf("an unknown tag: %v, want Invalid (D4)", err)
	}
	root := taggedManifest{tag: "multi", mediaType: pulp.OCIIndex}
	if err := s.read.QueryRowContext(t.Context(), `SELECT id, digest FROM manifest WHERE digest = $1`, list.Digest).Scan(&root.id, &root.digest); err != nil {
		t.Fatal(err)
	}
	for looked, want := range map[int]int{maxWalk - 3: 2, maxWalk - 2: -1} {
		w := walk{repositoryID: id, number: latest, looked: looked}
		got, err := w.expand(t.Context(), s.read, root)
		if refused := fault.Is(err, fault.Invalid); refused != (want < 0) || !refused && (err != nil || len(got) != want) {
			t.Errorf("after %d manifests: %d, %v", looked, len(got), err)
		}
	}
}

func TestCommitStaged(t *testing.T) {
	t.Parallel()
	s := open(t)
	to := target(t, s, "acme/app")
	stays, _ := pushImage(t, s, to.Repository.ID, "stays", "v1")
	leaves, _ := pushImage(t, s, to.Repository.ID, "leaves", "v2")
	claim := startTask(t, s)
	for _, m := range []pulp.Manifest{stays, leaves} {
		g := signatureOf(t, s, to, m, "sig of "+string(m.Digest))
		for range 2 { // what is staged twice is kept once
			if err := s.StageSignatures(t.Context(), claim, []pulp.Signature{g}); err != nil {
				t.Fatal(err)
			}
		}
	}
	staged, err := s.Staged(t.Context(), claim.TaskID, "8F336A705074623F7FC3273945ACE14E3EBB9BBA")
	if err != nil || len(staged) != 2 {
		t.Fatalf("staged: %v, %v, want 2", staged, err)
	}
	if _, err := s.DeleteManifest(t.Context(), to.Repository.ID, leaves.Digest); err != nil {
		t.Fatal(err)
	}
	v, err := s.CommitStaged(t.Context(), claim, to.Repository.ID)
	if err != nil {
		t.Fatal(err)
	}
	wantCounts(t, v, "2+0-0 1+0-0 1+1-0 1+0-0")
	k, err := s.Task(t.Context(), claim.TaskID)
	if err != nil || k.State != TaskCompleted || len(k.Created) != 1 || k.Created[0].Href != pulp.VersionHref(pulp.ContainerPush, to.Repository.ID, v.Number) {
		t.Errorf("task = %+v, %v", k, err)
	}
	by, err := s.SignedBy(t.Context(), to.Repository.ID, "8F336A705074623F7FC3273945ACE14E3EBB9BBA")
	if err != nil || len(by) != 1 || by[0].Reference != "localhost/acme/app:v1" {
		t.Errorf("SignedBy = %v, %v", by, err)
	}
}

func TestAFencedAttemptStoresNothing(t *testing.T) {
	t.Parallel()
	s := open(t)
	to := target(t, s, "acme/app")
	m, _ := pushImage(t, s, to.Repository.ID, "one", "v1")
	old := startTask(t, s)
	g := signatureOf(t, s, to, m, "sig")
	if err := s.StageSignatures(t.Context(), old, []pulp.Signature{g}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ReclaimTasks(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	again, err := s.ClaimTask(t.Context(), "another", old.TaskID, nil, leaseForTests)
	if err != nil || again == nil || again.Attempt != old.Attempt+1 {
		t.Fatalf("second claim: %+v, %v", again, err)
	}
	if _, err := s.CommitStaged(t.Context(), old, to.Repository.ID); err != ErrFenced { //nolint:errorlint // the bare sentinel is what it returns
		t.Errorf("the old attempt's commit = %v, want ErrFenced", err)
	}
	if err := s.StageSignatures(t.Context(), old, []pulp.Signature{g}); err != ErrFenced { //nolint:errorlint // the bare sentinel is what it returns
		t.Errorf("the old attempt's staging = %v, want ErrFenced", err)
	}
	if got, _ := s.ServedSignatures(t.Context(), to, g.ManifestID); len(got) != 0 {
		t.Errorf("%d signatures are served, want none", len(got))
	}
	v, err := s.CommitStaged(t.Context(), &Claim{TaskID: old.TaskID, Attempt: again.Attempt}, to.Repository.ID)
	if err != nil || v == nil {
		t.Errorf("the new attempt's commit = %v, %v, want what the old one had staged", v, err)
	}
}
