package content_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/internal/store/uploads"
)

// sorted returns the digests in order.
func sorted(all ...digest.Digest) []digest.Digest {
	slices.Sort(all)
	return all
}

func TestReadsOfALatestVersion(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	x := fillShelf(t, s, "acme/app")
	id := x.Repository.ID
	absent := pulp.Manifest{Digest: digest.FromString("absent"), MediaType: pulp.OCIManifest}
	sparse := storetest.Index(x.two, absent)
	if _, err := s.Content.PutManifest(t.Context(), content.PutManifest{RepositoryID: id, Manifest: sparse, Tags: []string{"sparse"}}); err != nil {
		t.Fatal(err)
	}
	all := map[string]digest.Digest{"one": x.one.Digest, "two": x.two.Digest, "multi": x.multi.Digest, "sparse": sparse.Digest}
	if held, err := s.Content.HeldTags(t.Context(), id); err != nil || !cmp.Equal(all, held) {
		t.Errorf("HeldTags: %v (-want +got):\n%s", err, cmp.Diff(all, held))
	}
	delete(all, "sparse")
	if whole, err := s.Content.WholeTags(t.Context(), id); err != nil || !cmp.Equal(all, whole) {
		t.Errorf("WholeTags: %v (-want +got):\n%s", err, cmp.Diff(all, whole))
	}
	for root, want := range map[digest.Digest][]digest.Digest{
		x.multi.Digest:    sorted(x.multi.Digest, x.one.Digest, x.third.Digest),
		x.one.Digest:      {x.one.Digest},
		sparse.Digest:     sorted(sparse.Digest, x.two.Digest),
		absent.Digest:     {},
		x.layer.Digest:    {},
		digest.Digest(""): {},
	} {
		tree, err := s.Content.HeldTree(t.Context(), id, root)
		if diff := cmp.Diff(want, append([]digest.Digest{}, sorted(tree...)...)); err != nil || diff != "" {
			t.Errorf("HeldTree of %s: %v (-want +got):\n%s", root, err, diff)
		}
	}
	for m, want := range map[digest.Digest]bool{x.one.Digest: true, x.two.Digest: false, absent.Digest: false} {
		if holds, err := s.Content.HoldsSignature(t.Context(), id, m); err != nil || holds != want {
			t.Errorf("HoldsSignature of %s = %t, %v, want %t", m, holds, err, want)
		}
	}
	blobs, err := s.Content.VersionBlobs(t.Context(), id, 1)
	if diff := cmp.Diff(sorted(x.one.Config.Digest, x.layer.Digest), sorted(blobs...)); err != nil || diff != "" {
		t.Errorf("VersionBlobs: %v (-want +got):\n%s", err, diff)
	}
	if _, err := s.Content.VersionBlobs(t.Context(), id, 99); !fault.Is(err, fault.NotFound) {
		t.Errorf("VersionBlobs of an unknown version: %v, want NotFound", err)
	}
	if blobs, err := s.Content.AbsentBlobs(t.Context(), id); err != nil || len(blobs) != 0 {
		t.Errorf("AbsentBlobs = %v, %v, want none", blobs, err)
	}
}

func TestTagChangesWithPreconditions(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	x := fillShelf(t, s, "acme/app")
	id := x.Repository.ID
	v, err := s.Content.TagManifest(t.Context(), nil, id, "new", x.two.Digest)
	if err != nil || v == nil || v.Counts[pulp.KindTag] != (pulp.Count{Present: 4, Added: 1}) {
		t.Errorf("TagManifest = %+v, %v", v, err)
	}
	if v, err := s.Content.TagManifest(t.Context(), nil, id, "new", x.two.Digest); err != nil || v != nil {
		t.Errorf("the same tag again made %+v, %v", v, err)
	}
	if _, err := s.Content.TagManifest(t.Context(), nil, id, "new", digest.FromString("absent")); !fault.Is(err, fault.Invalid) {
		t.Errorf("a tag of an unknown manifest: %v, want Invalid", err)
	}
	if v, err := s.Content.Untag(t.Context(), nil, id, "new"); err != nil || v.Counts[pulp.KindTag] != (pulp.Count{Present: 3, Removed: 1}) {
		t.Errorf("Untag = %+v, %v", v, err)
	}
	if _, err := s.Content.Untag(t.Context(), nil, id, "new"); !fault.Is(err, fault.Invalid) {
		t.Errorf("Untag of an unknown tag: %v, want Invalid", err)
	}
	never := func(digest.Digest) bool { return false }
	_, err = s.Content.DeleteTag(t.Context(), id, "two", never)
	if moved, ok := errors.AsType[*content.TagMoved](err); !ok || moved.Name != "two" || moved.Current != x.two.Digest {
		t.Errorf("DeleteTag with a precondition that fails: %v", err)
	}
	if _, err := s.Content.DeleteTag(t.Context(), id, "absent", nil); !fault.Is(err, fault.NotFound) {
		t.Errorf("DeleteTag of an unknown tag: %v, want NotFound", err)
	}
	is := func(d digest.Digest) bool { return d == x.two.Digest }
	if v, err := s.Content.DeleteTag(t.Context(), id, "two", is); err != nil || v.Counts[pulp.KindManifest].Removed != 0 {
		t.Errorf("DeleteTag = %+v, %v, want the manifest to stay", v, err)
	}
	// A push with a precondition on a tag that does not exist.
	put := content.PutManifest{RepositoryID: id, Manifest: x.two, Tags: []string{"two"}, When: never}
	_, err = s.Content.PutManifest(t.Context(), put)
	if moved, ok := errors.AsType[*content.TagMoved](err); !ok || moved.Current != "" {
		t.Errorf("a push with a precondition that fails: %v", err)
	}
	put.When = func(d digest.Digest) bool { return d == "" }
	if v, err := s.Content.PutManifest(t.Context(), put); err != nil || v == nil {
		t.Errorf("a push with a precondition that holds: %+v, %v", v, err)
	}
}

func TestCommitBlobEndsItsUpload(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	id := storetest.Target(t, s, "acme/app").Repository.ID
	u, err := s.Uploads.CreateUpload(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	b := pulp.Blob{Digest: digest.FromString("blob"), Size: 4, Data: []byte("blob"), Inline: true}
	if err := s.Content.CommitBlob(t.Context(), id, b, u.ID, u.Epoch+1); !errors.Is(err, uploads.ErrUploadGone) {
		t.Errorf("CommitBlob with another epoch: %v, want ErrUploadGone", err)
	}
	if _, err := s.Serving.Blob(t.Context(), b.Digest); !fault.Is(err, fault.NotFound) {
		t.Errorf("the blob of the refused commit: %v, want NotFound", err)
	}
	if err := s.Content.CommitBlob(t.Context(), id, b, u.ID, u.Epoch); err != nil {
		t.Fatal(err)
	}
	if err := s.Content.CommitBlob(t.Context(), id, b, u.ID, u.Epoch); !errors.Is(err, uploads.ErrUploadGone) {
		t.Errorf("CommitBlob of an ended upload: %v, want ErrUploadGone", err)
	}
}

func TestBlobsThatAreBeingDeleted(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	id := storetest.Target(t, s, "acme/app").Repository.ID
	other := storetest.Target(t, s, "acme/other").Repository.ID
	b := pulp.Blob{Digest: digest.FromString("blob"), Size: 4, Location: "here"}
	if err := s.Content.CommitBlob(t.Context(), id, b, "", 0); err != nil {
		t.Fatal(err)
	}
	stored, err := s.Serving.Blob(t.Context(), b.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Content.MoveBlob(t.Context(), b.Digest, "elsewhere", "wrong"); err != nil {
		t.Fatal(err)
	}
	if err := s.Content.MoveBlob(t.Context(), b.Digest, "here", "there"); err != nil {
		t.Fatal(err)
	}
	if moved, err := s.Serving.Blob(t.Context(), b.Digest); err != nil || moved.Location != "there" {
		t.Errorf("after MoveBlob: %+v, %v", moved, err)
	}
	if err := s.Content.LinkBlob(t.Context(), other, stored); err != nil {
		t.Fatal(err)
	}
	storetest.Exec(t, s, `UPDATE blob SET deleting = TRUE`)
	if err := s.Content.LinkBlob(t.Context(), other, stored); !errors.Is(err, content.ErrDeleting) {
		t.Errorf("LinkBlob = %v, want ErrDeleting", err)
	}
	if err := s.Content.CommitBlob(t.Context(), id, b, "", 0); !errors.Is(err, content.ErrDeleting) {
		t.Errorf("CommitBlob = %v, want ErrDeleting", err)
	}
	if taken, err := s.Content.TakeBlob(t.Context(), id, "", b.Digest); err != nil || taken {
		t.Errorf("TakeBlob = %t, %v, want false", taken, err)
	}
	stored.ID = "absent"
	if err := s.Content.LinkBlob(t.Context(), other, stored); !fault.Is(err, fault.NotFound) {
		t.Errorf("LinkBlob of an unknown blob: %v, want NotFound", err)
	}
}

func TestTouchedContentSurvivesSweeps(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	id := storetest.Target(t, s, "acme/app").Repository.ID
	pending, fetched := storetest.PushBlob(t, s, id, "pending").Digest, digest.FromString("fetched")
	if err := s.Content.FetchedBlob(t.Context(), id, "", pulp.Blob{Digest: fetched, Size: 7, Data: []byte("fetched"), Inline: true}); err != nil {
		t.Fatal(err)
	}
	old := func() { storetest.Exec(t, s, `UPDATE unversioned_content SET touched = 1`) }
	sweeps := func(want int64) {
		t.Helper()
		before := time.Now().Add(-time.Minute)
		if n, err := s.Sweeps.SweepPending(t.Context(), before, 10); err != nil || n != want {
			t.Errorf("SweepPending = %d, %v, want %d", n, err, want)
		}
		if n, err := s.Sweeps.SweepFetched(t.Context(), before, 10); err != nil || n != want {
			t.Errorf("SweepFetched = %d, %v, want %d", n, err, want)
		}
	}
	old()
	if err := s.Content.TouchBlob(t.Context(), id, pending); err != nil {
		t.Fatal(err)
	}
	if err := s.Content.TouchFetched(t.Context(), id, pulp.KindBlob, string(fetched)); err != nil {
		t.Fatal(err)
	}
	sweeps(0)
	old()
	// Each reason has its own time.
	if err := s.Content.TouchBlob(t.Context(), id, fetched); err != nil {
		t.Fatal(err)
	}
	if err := s.Content.TouchFetched(t.Context(), id, pulp.KindBlob, string(pending)); err != nil {
		t.Fatal(err)
	}
	sweeps(1)
	sweeps(0)
}

func TestFetchedManifestsAndSignatures(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	id := storetest.Target(t, s, "acme/app").Repository.ID
	m := fetchedImage(t, s, id, "one")
	have, stored, err := s.Content.HasManifest(t.Context(), id, m.Digest)
	if err != nil || have != content.HaveFetched || string(stored.Payload) != string(m.Payload) {
		t.Errorf("HasManifest = %v, %+v, %v, want the fetched manifest", have, stored, err)
	}
	g := pulp.Signature{Digest: digest.FromString("signature"), Content: []byte("signature"), Name: "x@y", KeyID: "K", Reference: "x/y:z", SignedAt: 1}
	if err := s.Content.FetchedSignature(t.Context(), id, digest.FromString("absent"), g); !fault.Is(err, fault.NotFound) {
		t.Errorf("a signature of an unknown manifest: %v, want NotFound", err)
	}
	if err := s.Content.FetchedSignature(t.Context(), id, m.Digest, g); err != nil {
		t.Fatal(err)
	}
	if have, err := s.Content.HasSignature(t.Context(), id, g.Digest); err != nil || have != content.HaveFetched {
		t.Errorf("HasSignature = %v, %v, want HaveFetched", have, err)
	}
	w := content.Synced{
		RepositoryID: id, Tags: map[string]digest.Digest{"v1": m.Digest}, Signatures: []digest.Digest{g.Digest},
		Listed: &content.TagListing{URL: "https://remote", Name: "app", Tags: 7},
	}
	if _, known, err := s.Content.ListedTags(t.Context(), id, "https://remote", "app"); err != nil || known {
		t.Errorf("ListedTags before a sync: known %t, %v", known, err)
	}
	v, err := s.Content.CommitSync(t.Context(), nil, w)
	if err != nil {
		t.Fatal(err)
	}
	storetest.WantCounts(t, v, storetest.Counts{
		Blobs:      pulp.Count{Present: 2, Added: 2},
		Manifests:  pulp.Count{Present: 1, Added: 1},
		Signatures: pulp.Count{Present: 1, Added: 1},
		Tags:       pulp.Count{Present: 1, Added: 1},
	})
	if tags, known, err := s.Content.ListedTags(t.Context(), id, "https://remote", "app"); err != nil || !known || tags != 7 {
		t.Errorf("ListedTags = %d, %t, %v, want 7", tags, known, err)
	}
	if have, _, err := s.Content.HasManifest(t.Context(), id, m.Digest); err != nil || have != content.HaveVersion {
		t.Errorf("HasManifest after the sync = %v, %v, want HaveVersion", have, err)
	}
	if rows := unversioned(t, s); len(rows) != 0 {
		t.Errorf("rows after the sync: %v, want none", rows)
	}
	w.Tags = map[string]digest.Digest{"v1": digest.FromString("absent")}
	if v, err := s.Content.CommitSync(t.Context(), nil, w); !fault.Is(err, fault.NotFound) || v != nil {
		t.Errorf("a tag of an unknown manifest: %+v, %v, want NotFound", v, err)
	}
}

func TestClaimsFollowTheirRemotes(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	to := storetest.Target(t, s, "acme/app")
	id := to.Repository.ID
	remotes := make([]pulp.Remote, 2)
	for i := range remotes {
		var err error
		remotes[i], err = s.Catalog.CreateRemote(t.Context(), pulp.Remote{
			Name: string(rune('a' + i)), URL: "https://remote", UpstreamName: "app", Policy: pulp.OnDemand,
		}, 0)
		if err != nil {
			t.Fatal(err)
		}
	}
	config, layer := digest.FromString("config"), digest.FromString("layer")
	if err := s.Content.FetchedBlob(t.Context(), id, "", pulp.Blob{Digest: config, Size: 6, Data: []byte("config"), Inline: true}); err != nil {
		t.Fatal(err)
	}
	if err := s.Content.FetchedBlob(t.Context(), id, remotes[0].ID, pulp.Blob{Digest: layer, Size: 5, Absent: true}); err != nil {
		t.Fatal(err)
	}
	m := storetest.Image(pulp.Descriptor{Digest: config}, pulp.Descriptor{Digest: layer})
	if err := s.Content.FetchedManifest(t.Context(), id, m); err != nil {
		t.Fatal(err)
	}
	sync := content.Synced{RepositoryID: id, RemoteID: remotes[0].ID, Tags: map[string]digest.Digest{"v1": m.Digest}}
	if _, err := s.Content.CommitSync(t.Context(), nil, sync); err != nil {
		t.Fatal(err)
	}
	absent, err := s.Content.AbsentBlobs(t.Context(), id)
	if err != nil || len(absent) != 1 || absent[0].Digest != layer {
		t.Fatalf("AbsentBlobs = %v, %v, want the layer", absent, err)
	}
	unattached := func(remote pulp.Remote, want bool) {
		t.Helper()
		if got, err := s.Content.Unattached(t.Context(), id, remote.ID); err != nil || got != want {
			t.Errorf("Unattached from %s = %t, %v, want %t", remote.Name, got, err, want)
		}
	}
	source := func(want string) {
		t.Helper()
		if b, err := s.Serving.ServedBlob(t.Context(), to, layer); err != nil || b.RemoteID != want || !b.Absent {
			t.Errorf("the layer is %+v, %v, want it absent with the source %q", b, err, want)
		}
	}
	unattached(remotes[0], false)
	unattached(remotes[1], true)
	source(remotes[0].ID)
	// A sync of another remote makes it the first source.
	sync.RemoteID = remotes[1].ID
	if _, err := s.Content.CommitSync(t.Context(), nil, sync); err != nil {
		t.Fatal(err)
	}
	unattached(remotes[1], false)
	source(remotes[1].ID)
	// A remote that failed is tried after the other one, and one that lacks the blob not at all.
	blob := absent[0].ID
	for _, c := range []struct {
		remote pulp.Remote
		lacks  bool
		want   string
	}{{remotes[1], false, remotes[0].ID}, {remotes[0], true, remotes[1].ID}, {remotes[1], true, ""}} {
		if err := s.Content.SourceFailed(t.Context(), id, blob, c.remote.ID, c.lacks); err != nil {
			t.Fatal(err)
		}
		source(c.want)
	}
	unattached(remotes[0], true)
	if err := s.Content.InTx(t.Context(), func(x *content.Tx) error { return x.ForgiveSource(remotes[0].ID) }); err != nil {
		t.Fatal(err)
	}
	source(remotes[0].ID)
	unattached(remotes[0], false)
}

func TestOutboxRecordsChangesOfTags(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	s.Content.EnableOutbox()
	id := storetest.Target(t, s, "acme/app").Repository.ID
	dirty := func(want ...string) {
		t.Helper()
		got := names(t, s, `SELECT name FROM upstream_tag WHERE dirty ORDER BY name`)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("dirty tags (-want +got):\n%s", diff)
		}
		storetest.Exec(t, s, `UPDATE upstream_tag SET dirty = FALSE`)
	}
	m, _ := storetest.PushImage(t, s, id, "one", "v1", "v2")
	dirty("v1", "v2")
	if _, err := s.Content.Untag(t.Context(), nil, id, "v2"); err != nil {
		t.Fatal(err)
	}
	dirty("v2")
	if err := s.Content.InTx(t.Context(), func(x *content.Tx) error { return x.MoveUpstream(id) }); err != nil {
		t.Fatal(err)
	}
	dirty("v1") // the tags under the new name
	pending, _ := storetest.PushImage(t, s, id, "pending")
	for _, d := range []digest.Digest{m.Digest, pending.Digest} {
		if _, err := s.Content.DeleteManifest(t.Context(), id, d); err != nil {
			t.Fatal(err)
		}
	}
	dirty("v1")
	// A version holds the first manifest still; the pending one was in none.
	if diff := cmp.Diff([]string{string(pending.Digest)}, names(t, s, `SELECT digest FROM upstream_removed ORDER BY digest`)); diff != "" {
		t.Errorf("removed manifests (-want +got):\n%s", diff)
	}
	if _, err := s.Catalog.EditRepository(t.Context(), nil, pulp.ContainerPush, id, func(r *pulp.Repository) { one := int64(1); r.RetainRepoVersions = &one }); err != nil {
		t.Fatal(err)
	}
	removed := names(t, s, `SELECT digest FROM upstream_removed ORDER BY digest`)
	if !slices.Contains(removed, string(m.Digest)) {
		t.Errorf("removed manifests %v, want %s too after its versions were dropped", removed, m.Digest)
	}
}

// names returns the first column of a query.
func names(t *testing.T, s *store.Store, query string) []string {
	t.Helper()
	all, err := sqldb.Collect(t.Context(), s.DB.Read(), sqldb.ScanString, query)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestAddContentIgnoresSignatures(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	x := fillShelf(t, s, "acme/app")
	to := newRepository(t, s, "copies")
	signature := unitOf(t, s, x.Repository.ID, pulp.KindSignature, string(digest.FromString("signed")))
	if v, err := s.Content.AddContent(t.Context(), nil, to.ID, []record.Unit{signature}, nil); err != nil || v != nil {
		t.Errorf("AddContent of a signature = %+v, %v, want no version", v, err)
	}
}
