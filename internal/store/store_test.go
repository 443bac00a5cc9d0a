package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/pressly/goose/v3"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pgtest"
	"github.com/countersign/countersign/internal/pulp"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// open returns a fresh, migrated store on disk, on the engine that pgtest.Variable names.
func open(t *testing.T) *Store {
	t.Helper()
	s := openEmpty(t)
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// openEmpty returns a store without a schema.
func openEmpty(t *testing.T) *Store {
	t.Helper()
	s, err := Open(t.Context(), pgtest.Or(t, filepath.Join(t.TempDir(), "db", "countersign.db")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// openAt returns a store whose schema is of an older version: only run uses it, until Migrate.
func openAt(t *testing.T, version int64) *Store {
	t.Helper()
	s := openEmpty(t)
	if err := s.withProvider(func(p *goose.Provider) error { _, err := p.UpTo(t.Context(), version); return err }); err != nil {
		t.Fatal(err)
	}
	return s
}

// run executes statements in one transaction.
func (s *Store) run(t *testing.T, texts ...string) {
	t.Helper()
	err := s.inTx(t.Context(), func(x *tx) error {
		for _, text := range texts {
			if _, err := x.exec(text); err != nil {
				return fmt.Errorf("%s: %w", text, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// target returns what a first push to a path makes.
func target(t *testing.T, s *Store, path string) Target {
	t.Helper()
	got, err := s.PushTarget(t.Context(), path, pulp.ContainerPush)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func pushBlob(t *testing.T, s *Store, repositoryID, text string) pulp.Descriptor {
	t.Helper()
	b := pulp.Blob{Digest: digest.FromString(text), Size: int64(len(text)), Data: []byte(text), Inline: true}
	if err := s.CommitBlob(t.Context(), repositoryID, b, "", 0); err != nil {
		t.Fatal(err)
	}
	return pulp.Descriptor{Digest: b.Digest, Size: b.Size, MediaType: "application/octet-stream"}
}

// image returns a manifest with a config and one layer; its digest follows from what it names.
func image(config, layer pulp.Descriptor) pulp.Manifest {
	payload, _ := json.Marshal(map[string]any{"config": config.Digest, "layer": layer.Digest})
	return pulp.Manifest{
		Digest: digest.FromBytes(payload), MediaType: pulp.OCIManifest, SchemaVersion: 2, Payload: payload, Type: "image",
		Config: &config, Layers: []pulp.Descriptor{layer},
	}
}

func index(children ...pulp.Manifest) pulp.Manifest {
	m := pulp.Manifest{MediaType: pulp.OCIIndex, SchemaVersion: 2, Type: "index"}
	for _, c := range children {
		m.Children = append(m.Children, pulp.Descriptor{Digest: c.Digest, MediaType: c.MediaType})
		m.Payload = append(m.Payload, c.Digest...)
	}
	m.Digest = digest.FromBytes(m.Payload)
	return m
}

// pushImage pushes an image made of a text under tags, or by digest when there are none.
func pushImage(t *testing.T, s *Store, repositoryID, text string, tags ...string) (pulp.Manifest, *pulp.Version) {
	t.Helper()
	m := image(pushBlob(t, s, repositoryID, "config "+text), pushBlob(t, s, repositoryID, "layer "+text))
	v, err := s.PutManifest(t.Context(), PutManifest{RepositoryID: repositoryID, Manifest: m, Tags: tags})
	if err != nil {
		t.Fatal(err)
	}
	return m, v
}

// wantCounts compares present/added/removed of blobs, manifests, signatures and tags.
func wantCounts(t *testing.T, v *pulp.Version, want string) {
	t.Helper()
	if v == nil {
		t.Fatalf("no version was made, want %s", want)
	}
	got := ""
	for _, k := range pulp.Kinds {
		n := v.Counts[k]
		got += fmt.Sprintf("%d+%d-%d ", n.Present, n.Added, n.Removed)
	}
	if got != want+" " {
		t.Errorf("version %d holds %s(blobs, manifests, signatures, tags), want %s", v.Number, got, want)
	}
}

func TestPushMakesOneVersion(t *testing.T) {
	t.Parallel()
	s := open(t)
	to := target(t, s, "acme/app")
	if to.Repository.LatestVersion != 0 || !to.Repository.MadeByPush || to.Repository.Name != "acme/app" || to.Distribution.BasePath != "acme/app" {
		t.Errorf("first push made %+v", to)
	}
	first, v := pushImage(t, s, to.Repository.ID, "one", "v1")
	wantCounts(t, v, "2+2-0 1+1-0 0+0-0 1+1-0")

	_, v = pushImage(t, s, to.Repository.ID, "one", "v1")
	if v != nil {
		t.Errorf("the same push again made version %d, want none", v.Number)
	}
	second, v := pushImage(t, s, to.Repository.ID, "two", "v1") // golden 65c: the old manifest and its blobs stay
	wantCounts(t, v, "4+2-0 2+1-0 0+0-0 1+1-1")

	got, err := s.ServedManifest(t.Context(), to, "v1")
	if err != nil || got.Digest != second.Digest {
		t.Errorf("v1 is %s, %v, want %s", got.Digest, err, second.Digest)
	}
	pinned := to
	pinned.Distribution.Pinned = &pulp.PinnedVersion{RepositoryID: to.Repository.ID, Number: 1}
	got, err = s.ServedManifest(t.Context(), pinned, "v1")
	if err != nil || got.Digest != first.Digest {
		t.Errorf("v1 in version 1 is %s, %v, want %s", got.Digest, err, first.Digest)
	}
	if _, err := s.ServedManifest(t.Context(), pinned, string(second.Digest)); !fault.Is(err, fault.NotFound) {
		t.Errorf("the second image in version 1: %v, want NotFound", err)
	}
}

func TestManifestByDigestIsPending(t *testing.T) {
	t.Parallel()
	s := open(t)
	to := target(t, s, "acme/app")
	a, v := pushImage(t, s, to.Repository.ID, "amd64")
	b, w := pushImage(t, s, to.Repository.ID, "arm64")
	if v != nil || w != nil {
		t.Error("a push by digest made a version")
	}
	if got, err := s.ServedManifest(t.Context(), to, string(a.Digest)); err != nil || got.Digest != a.Digest {
		t.Errorf("a pending manifest is served as %v, %v", got.Digest, err)
	}
	g := signatureOf(t, s, to, a, "sig a")
	if v, err := s.PutSignature(t.Context(), to.Repository.ID, a.Digest, g); v != nil || err != nil {
		t.Errorf("a signature ahead of its manifest: %v, %v, want it to wait (D6)", v, err)
	}
	list := index(a, b)
	v, err := s.PutManifest(t.Context(), PutManifest{RepositoryID: to.Repository.ID, Manifest: list, Tags: []string{"multi"}})
	if err != nil {
		t.Fatal(err)
	}
	wantCounts(t, v, "4+4-0 3+3-0 1+1-0 1+1-0")
	var left int
	if err := s.read.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM pending_content`).Scan(&left); err != nil || left != 0 {
		t.Errorf("%d units still wait, %v", left, err)
	}
}

func TestManifestMayNotLackBlobs(t *testing.T) {
	t.Parallel()
	s := open(t)
	to, other := target(t, s, "acme/app"), target(t, s, "acme/other")
	config, layer := pushBlob(t, s, to.Repository.ID, "config"), pushBlob(t, s, other.Repository.ID, "layer")
	m := image(config, layer)
	_, err := s.PutManifest(t.Context(), PutManifest{RepositoryID: to.Repository.ID, Manifest: m, Tags: []string{"v1"}})
	if missing, ok := errors.AsType[*MissingBlobs](err); !ok || len(missing.Digests) != 1 || missing.Digests[0] != layer.Digest {
		t.Fatalf("PutManifest = %v, want the layer of another repository to be missing", err)
	}
	if _, err := s.ServedManifest(t.Context(), to, string(m.Digest)); !fault.Is(err, fault.NotFound) {
		t.Errorf("a refused manifest is served: %v", err)
	}
	m.Layers[0].URLs = []string{"https://elsewhere.example/layer"}
	if _, err := s.PutManifest(t.Context(), PutManifest{RepositoryID: to.Repository.ID, Manifest: m, Tags: []string{"v1"}}); err != nil {
		t.Errorf("a foreign layer need not be there: %v", err)
	}
	sparse := index(m, pulp.Manifest{Digest: digest.FromString("absent")})
	put := PutManifest{RepositoryID: to.Repository.ID, Manifest: sparse, Tags: []string{"sparse"}, RequireChildren: true}
	if _, err := s.PutManifest(t.Context(), put); err == nil {
		t.Error("a sparse index was taken although children are required")
	}
	put.RequireChildren = false
	if _, err := s.PutManifest(t.Context(), put); err != nil {
		t.Errorf("a sparse index: %v", err)
	}
}

func TestDeleteManifestTakesWhatIsItsOwn(t *testing.T) {
	t.Parallel()
	s := open(t)
	to := target(t, s, "acme/app")
	shared := pushBlob(t, s, to.Repository.ID, "shared layer")
	one := image(pushBlob(t, s, to.Repository.ID, "config 1"), shared)
	two := image(pushBlob(t, s, to.Repository.ID, "config 2"), shared)
	for tag, m := range map[string]pulp.Manifest{"one": one, "two": two} {
		if _, err := s.PutManifest(t.Context(), PutManifest{RepositoryID: to.Repository.ID, Manifest: m, Tags: []string{tag}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.PutSignature(t.Context(), to.Repository.ID, one.Digest, signatureOf(t, s, to, one, "sig")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.DeleteBlob(t.Context(), to.Repository.ID, shared.Digest); !fault.Is(err, fault.Conflict) {
		t.Errorf("deleting a blob in use: %v, want Conflict (D22)", err)
	}
	v, err := s.DeleteManifest(t.Context(), to.Repository.ID, one.Digest)
	if err != nil {
		t.Fatal(err)
	}
	wantCounts(t, v, "2+0-1 1+0-1 0+0-1 1+0-1")
	if _, err := s.DeleteManifest(t.Context(), to.Repository.ID, one.Digest); !fault.Is(err, fault.NotFound) {
		t.Errorf("deleting it again: %v, want NotFound", err)
	}
	v, err = s.DeleteTag(t.Context(), to.Repository.ID, "two", nil)
	if err != nil {
		t.Fatal(err)
	}
	wantCounts(t, v, "2+0-0 1+0-0 0+0-0 0+0-1")
}

func TestConcurrentPushesAllSucceed(t *testing.T) {
	t.Parallel()
	s := open(t)
	to := target(t, s, "acme/app")
	const clients, each = 10, 10
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for i := range each {
				text := fmt.Sprintf("%d/%d", c, i)
				b := pulp.Blob{Digest: digest.FromString(text), Data: []byte(text), Inline: true}
				if err := s.CommitBlob(t.Context(), to.Repository.ID, b, "", 0); err != nil {
					t.Error(err)
					return
				}
				d := pulp.Descriptor{Digest: b.Digest}
				_, err := s.PutManifest(t.Context(), PutManifest{RepositoryID: to.Repository.ID, Manifest: image(d, d), Tags: []string{fmt.Sprintf("%d-%d", c, i)}})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	v, err := s.Version(t.Context(), to.Repository.ID, clients*each)
	if err != nil {
		t.Fatal(err)
	}
	wantCounts(t, &v, "100+1-0 100+1-0 0+0-0 100+1-0")
	tags, err := s.ServedTags(t.Context(), to, "", 1000)
	if err != nil || len(tags) != clients*each {
		t.Errorf("%d tags, %v, want %d", len(tags), err, clients*each)
	}
}

func TestOneBadWriteSpoilsNoOther(t *testing.T) {
	t.Parallel()
	s := open(t)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			err := s.inTx(t.Context(), func(x *tx) error {
				if _, err := x.exec(`INSERT INTO setting (name, value) VALUES ($1, 'x')`, fmt.Sprint(i)); err != nil {
					return err
				}
				switch i % 5 {
				case 0:
					return errors.New("refused")
				case 1:
					panic("bug")
				}
				return nil
			})
			if bad := i%5 < 2; bad != (err != nil) {
				t.Errorf("write %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	var n int
	if err := s.read.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM setting`).Scan(&n); err != nil || n != 30 {
		t.Errorf("%d rows, %v, want 30", n, err)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.PutSetting(canceled, "late", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a write of a gone caller: %v", err)
	}
}

// What must survive a power cut waits for the disk, whatever was written beside it; what need not does not.
func TestWhatWaitsForTheDisk(t *testing.T) {
	t.Parallel()
	s := open(t)
	if s.postgres != nil {
		t.Skip("PostgreSQL's commits all wait")
	}
	const normal, full = 1, 2 // https://sqlite.org/pragma.html#pragma_synchronous
	for i, c := range []struct {
		in   func(context.Context, func(*tx) error) error
		want int
	}{{s.inTx, full}, {s.inTxLazily, normal}, {s.inTxLazily, normal}, {s.inTx, full}, {s.inTxLazily, normal}} {
		var level int
		if err := c.in(t.Context(), func(x *tx) error { return x.row(`PRAGMA synchronous`).Scan(&level) }); err != nil || level != c.want {
			t.Errorf("write %d: level %d, %v, want %d", i, level, err, c.want)
		}
	}
	var wg sync.WaitGroup
	for i := range 200 {
		in := s.inTxLazily
		if i%2 == 0 {
			in = s.inTx
		}
		wg.Go(func() {
			var level int
			if err := in(t.Context(), func(x *tx) error { return x.row(`PRAGMA synchronous`).Scan(&level) }); err != nil || i%2 == 0 && level != full {
				t.Errorf("write %d: level %d, %v", i, level, err)
			}
		})
	}
	wg.Wait()
}

func TestOpenRefusesWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"", "mysql://x", "sqlite:"} {
		if s, err := Open(t.Context(), url); err == nil {
			_ = s.Close()
			t.Errorf("Open(%q) succeeded", url)
		}
	}
	s := open(t)
	err := s.inTx(t.Context(), func(x *tx) error {
		_, err := x.exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (99999, TRUE)`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Migrate(t.Context()); !fault.Is(err, fault.Conflict) {
		t.Errorf("Migrate on a newer schema = %v, want Conflict", err)
	}
}

func TestDataDirectoryHasOneOwner(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, err := LockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := LockDir(dir); !fault.Is(err, fault.Conflict) {
		t.Errorf("second LockDir = %v, want Conflict", err)
	}
	if err := first.Release(); err != nil {
		t.Fatal(err)
	}
	second, err := LockDir(dir)
	if err != nil {
		t.Fatalf("LockDir after Release = %v", err)
	}
	_ = second.Release()
}
