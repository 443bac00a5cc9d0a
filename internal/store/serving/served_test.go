package serving_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/storetest"
)

// put pushes a manifest into a repository, under tags, or by digest if there are none.
func put(t *testing.T, s *store.Store, repositoryID string, m pulp.Manifest, tags ...string) {
	t.Helper()
	if _, err := s.Content.PutManifest(t.Context(), content.PutManifest{RepositoryID: repositoryID, Manifest: m, Tags: tags}); err != nil {
		t.Fatal(err)
	}
}

// distribute creates a distribution and returns its target.
func distribute(t *testing.T, s *store.Store, d pulp.Distribution) record.Target {
	t.Helper()
	d.Name = d.BasePath
	if _, err := s.Catalog.CreateDistribution(t.Context(), nil, d, 0); err != nil {
		t.Fatal(err)
	}
	to, err := s.Serving.Resolve(t.Context(), d.BasePath)
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// pin serves a version of a repository under another path.
func pin(t *testing.T, s *store.Store, repositoryID string, number int64) record.Target {
	t.Helper()
	v, err := s.Content.Version(t.Context(), repositoryID, number)
	if err != nil {
		t.Fatal(err)
	}
	return distribute(t, s, pulp.Distribution{
		BasePath: fmt.Sprint("acme/pinned-", number),
		Pinned:   &pulp.PinnedVersion{VersionID: v.ID, RepositoryID: repositoryID, Number: number},
	})
}

func TestResolvePublicHidesPrivateDistributions(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	s.Serving.EnableCache()
	to := storetest.Target(t, s, "acme/app")
	for _, private := range []bool{false, true} {
		if err := s.Catalog.SetPrivate(t.Context(), "acme/app", private); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second time from the cache
			if got, err := s.Serving.Resolve(t.Context(), "acme/app"); err != nil || got.Repository.ID != to.Repository.ID {
				t.Errorf("private %t: Resolve = %+v, %v", private, got, err)
			}
			if _, err := s.Serving.ResolvePublic(t.Context(), "acme/app"); fault.Is(err, fault.NotFound) != private {
				t.Errorf("private %t: ResolvePublic = %v", private, err)
			}
		}
	}
	if _, err := s.Serving.Resolve(t.Context(), "acme/absent"); !fault.Is(err, fault.NotFound) {
		t.Errorf("Resolve of an unknown path = %v, want NotFound", err)
	}
}

func TestCatalog(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	for _, path := range []string{"acme/a", "acme/b", "other/a"} {
		storetest.Target(t, s, path)
	}
	if err := s.Catalog.SetPrivate(t.Context(), "acme/b", true); err != nil {
		t.Fatal(err)
	}
	if err := s.Catalog.SetPrivate(t.Context(), "other/a", true); err != nil {
		t.Fatal(err)
	}
	id := storetest.Target(t, s, "acme/a").Repository.ID
	distribute(t, s, pulp.Distribution{BasePath: "acme/hidden", RepositoryID: id, Hidden: true})
	distribute(t, s, pulp.Distribution{BasePath: "acme/nothing"})
	for name, c := range map[string]struct {
		user, after string // no user: an administrator
		limit       int
		want        []string
	}{
		"public":         {user: "nobody", limit: 10, want: []string{"acme/a"}},
		"own":            {user: "acme", limit: 10, want: []string{"acme/a", "acme/b"}},
		"all":            {limit: 10, want: []string{"acme/a", "acme/b", "other/a"}},
		"first page":     {limit: 2, want: []string{"acme/a", "acme/b"}},
		"second page":    {after: "acme/b", limit: 2, want: []string{"other/a"}},
		"after the last": {after: "other/a", limit: 2, want: []string{}},
	} {
		got, err := s.Serving.Catalog(t.Context(), storetest.ViewerOf(t, s, c.user), c.after, c.limit)
		if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
}

func TestBlobHolders(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	first, second := storetest.Target(t, s, "acme/private"), storetest.Target(t, s, "acme/public")
	if err := s.Catalog.SetPrivate(t.Context(), "acme/private", true); err != nil {
		t.Fatal(err)
	}
	m, _ := storetest.PushImage(t, s, first.Repository.ID, "one", "v1")
	layer := m.Layers[0].Digest
	storetest.PushBlob(t, s, second.Repository.ID, "layer one") // pending
	holders := func(basePath string, limit int, want ...string) {
		t.Helper()
		found, err := s.Serving.BlobHolders(t.Context(), nil, layer, basePath, limit)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, d := range found {
			got = append(got, d.BasePath)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("holders under %q (-want +got):\n%s", basePath, diff)
		}
	}
	holders("", 10, "acme/public", "acme/private")
	holders("", 1, "acme/public")
	holders("acme/private", 10, "acme/private")
	holders("acme/absent", 10)
	if _, err := s.Content.DeleteManifest(t.Context(), first.Repository.ID, m.Digest); err != nil {
		t.Fatal(err)
	}
	holders("", 10, "acme/public")
}

func TestPinnedTargetsServeTheirVersionOnly(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	latest := storetest.Target(t, s, "acme/app")
	id := latest.Repository.ID
	one, v := storetest.PushImage(t, s, id, "one", "v1")
	pinned := pin(t, s, id, v.Number)
	two, _ := storetest.PushImage(t, s, id, "two", "v1", "v2")
	pending, _ := storetest.PushImage(t, s, id, "pending")
	signature := storetest.SignatureOf(t, s, latest, pending, "signature")
	if _, err := s.Signatures.PutSignature(t.Context(), id, pending.Digest, signature); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		target                record.Target
		tag                   digest.Digest
		tags                  []string
		two, pending, signed  bool
		blobOfTwo, blobOfNone bool
	}{
		"latest": {target: latest, tag: two.Digest, tags: []string{"v1", "v2"}, two: true, pending: true, signed: true, blobOfTwo: true},
		"pinned": {target: pinned, tag: one.Digest, tags: []string{"v1"}},
	} {
		if m, err := s.Serving.ServedManifest(t.Context(), c.target, "v1"); err != nil || m.Digest != c.tag {
			t.Errorf("%s: v1 is %s, %v, want %s", name, m.Digest, err, c.tag)
		}
		if tags, err := s.Serving.ServedTags(t.Context(), c.target, "", 10); err != nil || !cmp.Equal(tags, c.tags) {
			t.Errorf("%s: tags %v, %v, want %v", name, tags, err, c.tags)
		}
		serves := func(what string, err error, want bool) {
			t.Helper()
			if err != nil && !fault.Is(err, fault.NotFound) || (err == nil) != want {
				t.Errorf("%s: %s: %v, want served %t", name, what, err, want)
			}
		}
		_, err := s.Serving.ServedManifest(t.Context(), c.target, string(two.Digest))
		serves("a later manifest", err, c.two)
		_, err = s.Serving.ServedManifest(t.Context(), c.target, string(pending.Digest))
		serves("a pending manifest", err, c.pending)
		_, err = s.Serving.ServedBlob(t.Context(), c.target, two.Layers[0].Digest)
		serves("a blob of a later manifest", err, c.blobOfTwo)
		_, err = s.Serving.ServedBlob(t.Context(), c.target, digest.FromString("absent"))
		serves("an unknown blob", err, c.blobOfNone)
		signatures, err := s.Serving.ServedSignatures(t.Context(), c.target, signature.ManifestID)
		if err != nil || (len(signatures) == 1) != c.signed {
			t.Errorf("%s: signatures of the pending manifest %v, %v, want any: %t", name, signatures, err, c.signed)
		}
	}
	if tags, err := s.Serving.ServedTags(t.Context(), latest, "v1", 10); err != nil || !cmp.Equal(tags, []string{"v2"}) {
		t.Errorf("tags after v1: %v, %v", tags, err)
	}
	if tags, err := s.Serving.ServedTags(t.Context(), latest, "", 1); err != nil || !cmp.Equal(tags, []string{"v1"}) {
		t.Errorf("one tag: %v, %v", tags, err)
	}
}

func TestServedReferrers(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	to := storetest.Target(t, s, "acme/app")
	id := to.Repository.ID
	subject, v := storetest.PushImage(t, s, id, "subject", "v1")
	pinned := pin(t, s, id, v.Number)
	var want []digest.Digest
	for i := range 5 {
		m := storetest.Image(storetest.PushBlob(t, s, id, "config"), storetest.PushBlob(t, s, id, fmt.Sprint("layer", i)))
		m.Subject, m.ArtifactType = subject.Digest, fmt.Sprint("application/type", i%2)
		if i == 4 {
			m.Annotations = map[string]string{"note": strings.Repeat("x", 1000)}
		}
		put(t, s, id, m)
		want = append(want, m.Digest)
	}
	pages := func(target record.Target, artifactType string, limit int) (got []digest.Digest, sizes []int) {
		t.Helper()
		after := ""
		for {
			page, more, err := s.Serving.ServedReferrers(t.Context(), target, subject.Digest, artifactType, after, limit)
			if err != nil || more && len(page) == 0 {
				t.Fatalf("a page after %q: %v, %v", after, page, err)
			}
			for _, r := range page {
				got = append(got, r.Digest)
				after = r.ID
			}
			sizes = append(sizes, len(page))
			if !more {
				return got, sizes
			}
		}
	}
	for name, c := range map[string]struct {
		target       record.Target
		artifactType string
		limit        int
		want         []digest.Digest
		sizes        []int
	}{
		"all":              {target: to, limit: 1 << 20, want: want, sizes: []int{5}},
		"two a page":       {target: to, limit: 700, want: want, sizes: []int{2, 2, 1}},
		"at least one":     {target: to, limit: 1, want: want, sizes: []int{1, 1, 1, 1, 1}},
		"of a type":        {target: to, artifactType: "application/type1", limit: 1 << 20, want: []digest.Digest{want[1], want[3]}, sizes: []int{2}},
		"none of the type": {target: to, artifactType: "application/type2", limit: 1 << 20, sizes: []int{0}},
		"older version":    {target: pinned, limit: 1 << 20, sizes: []int{0}},
	} {
		got, sizes := pages(c.target, c.artifactType, c.limit)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if diff := cmp.Diff(c.sizes, sizes); diff != "" {
			t.Errorf("%s: sizes of the pages (-want +got):\n%s", name, diff)
		}
	}
	page, _, err := s.Serving.ServedReferrers(t.Context(), to, subject.Digest, "", "", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	first, last := page[0], page[4]
	if first.MediaType != pulp.OCIManifest || first.Size == 0 || first.ArtifactType != "application/type0" || first.Annotations != nil {
		t.Errorf("first referrer: %+v", first)
	}
	var annotations map[string]string
	if err := json.Unmarshal(last.Annotations, &annotations); err != nil || len(annotations["note"]) != 1000 {
		t.Errorf("annotations of the last referrer: %s, %v", last.Annotations, err)
	}
}

func TestServedChildren(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	to := storetest.Target(t, s, "acme/app")
	one, _ := storetest.PushImage(t, s, to.Repository.ID, "one")
	two, _ := storetest.PushImage(t, s, to.Repository.ID, "two")
	absent := pulp.Manifest{Digest: digest.FromString("absent"), MediaType: pulp.OCIManifest}
	put(t, s, to.Repository.ID, storetest.Index(two, one, two, absent), "multi")
	index, err := s.Serving.ServedManifest(t.Context(), to, "multi")
	if err != nil {
		t.Fatal(err)
	}
	for limit, want := range map[int][]digest.Digest{10: {two.Digest, one.Digest}, 1: {two.Digest}} {
		children, err := s.Serving.ServedChildren(t.Context(), to, index.ID, limit)
		if err != nil {
			t.Fatal(err)
		}
		var got []digest.Digest
		for _, m := range children {
			got = append(got, m.Digest)
			if len(m.Payload) != 0 {
				t.Errorf("%s has its payload", m.Digest)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("at most %d children (-want +got):\n%s", limit, diff)
		}
	}
}

func TestUnitsByIDAndDigest(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	if blobs, upstream, err := s.Serving.KnowsBlobs(t.Context()); err != nil || blobs || upstream {
		t.Errorf("an empty database: KnowsBlobs = %t, %t, %v", blobs, upstream, err)
	}
	to := storetest.Target(t, s, "acme/app")
	m, _ := storetest.PushImage(t, s, to.Repository.ID, "one", "v1")
	if blobs, upstream, err := s.Serving.KnowsBlobs(t.Context()); err != nil || !blobs || upstream {
		t.Errorf("after a push without an upstream: KnowsBlobs = %t, %t, %v", blobs, upstream, err)
	}
	byDigest, err := s.Serving.ManifestByDigest(t.Context(), m.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if byID, err := s.Serving.Manifest(t.Context(), byDigest.ID); err != nil || byID.Digest != m.Digest {
		t.Errorf("Manifest = %+v, %v", byID, err)
	}
	if payload, err := s.Serving.Payload(t.Context(), byDigest.ID); err != nil || string(payload) != string(m.Payload) {
		t.Errorf("Payload = %q, %v, want %q", payload, err, m.Payload)
	}
	b, err := s.Serving.Blob(t.Context(), m.Layers[0].Digest)
	if err != nil || string(b.Data) != "layer one" {
		t.Errorf("Blob = %+v, %v", b, err)
	}
	if got, err := s.Serving.RepositoryBlob(t.Context(), to.Repository.ID, b.ID); err != nil || got.Digest != b.Digest || got.Absent {
		t.Errorf("RepositoryBlob = %+v, %v", got, err)
	}
	storetest.Exec(t, s, `UPDATE blob SET deleting = TRUE WHERE id = $1`, b.ID)
	for name, err := range map[string]error{
		"Blob while it is deleted": second(s.Serving.Blob(t.Context(), b.Digest)),
		"RepositoryBlob":           second(s.Serving.RepositoryBlob(t.Context(), to.Repository.ID, "absent")),
		"Manifest":                 second(s.Serving.Manifest(t.Context(), "absent")),
		"Payload":                  second(s.Serving.Payload(t.Context(), "absent")),
		"ManifestByDigest":         second(s.Serving.ManifestByDigest(t.Context(), digest.FromString("absent"))),
	} {
		if !fault.Is(err, fault.NotFound) {
			t.Errorf("%s = %v, want NotFound", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestBlobsWithoutSource(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	remote, err := s.Catalog.CreateRemote(t.Context(), pulp.Remote{Name: "r", URL: "https://x", UpstreamName: "a/b", Policy: pulp.OnDemand}, 0)
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Catalog.CreateRepository(t.Context(), pulp.Repository{Type: pulp.Container, Name: "mirror"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	config, layer := digest.FromString("config"), digest.FromString("layer")
	for _, d := range []digest.Digest{config, layer} {
		if err := s.Content.FetchedBlob(t.Context(), r.ID, remote.ID, pulp.Blob{Digest: d, Size: 5, Absent: true}); err != nil {
			t.Fatal(err)
		}
	}
	m := storetest.Image(pulp.Descriptor{Digest: config}, pulp.Descriptor{Digest: layer})
	if err := s.Content.FetchedManifest(t.Context(), r.ID, m); err != nil {
		t.Fatal(err)
	}
	v, err := s.Content.CommitSync(t.Context(), nil, content.Synced{RepositoryID: r.ID, Tags: map[string]digest.Digest{"v1": m.Digest}})
	if err != nil {
		t.Fatal(err)
	}
	missing := func(limit int, want int, all int64) {
		t.Helper()
		got, n, err := s.Serving.BlobsWithoutSource(t.Context(), r.ID, v.Number, limit)
		if err != nil || len(got) != want || n != all {
			t.Errorf("BlobsWithoutSource = %v, %d, %v, want %d of %d", got, n, err, want, all)
		}
	}
	missing(10, 0, 0)
	to := distribute(t, s, pulp.Distribution{BasePath: "mirror", RepositoryID: r.ID})
	b, err := s.Serving.ServedBlob(t.Context(), to, layer)
	if err != nil || !b.Absent || b.RemoteID != remote.ID || b.Size != 5 {
		t.Fatalf("the claimed blob is %+v, %v", b, err)
	}
	if sources, err := s.Serving.BlobSources(t.Context(), b.ID); err != nil || len(sources) != 1 || sources[0].ID != remote.ID {
		t.Errorf("BlobSources = %v, %v", sources, err)
	}
	// A remote that lacks the blob is skipped for some minutes.
	if err := s.Content.SourceFailed(t.Context(), r.ID, b.ID, remote.ID, true); err != nil {
		t.Fatal(err)
	}
	missing(10, 1, 1)
	if err := s.Catalog.DeleteRemote(t.Context(), nil, remote.ID); err != nil {
		t.Fatal(err)
	}
	missing(10, 2, 2)
	missing(1, 1, 2)
}
