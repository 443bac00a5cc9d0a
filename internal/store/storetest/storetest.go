// Package storetest opens databases for tests and fills them with content.
package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pgtest"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/accounts"
	"github.com/countersign/countersign/internal/store/catalog"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/taskstore"
)

// AddService adds a signing service that runs a script.
func AddService(t *testing.T, s *store.Store, name string) pulp.SigningService {
	t.Helper()
	v, err := s.Signatures.AddSigningService(t.Context(), pulp.SigningService{Name: name, Class: pulp.ManifestSigningService, Kind: pulp.ServiceScript})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// Assign assigns a signing service to a repository on behalf of an assigner.
func Assign(t *testing.T, s *store.Store, r pulp.Repository, service string, by pulp.Assigner, onPush bool) {
	t.Helper()
	if _, err := s.Catalog.EditRepository(t.Context(), nil, r.Type, r.ID, func(r *pulp.Repository) {
		r.SigningServiceID, r.SigningAssigned, r.SignOnPush = service, by, onPush
	}); err != nil {
		t.Fatal(err)
	}
}

// Image returns a manifest with a config and one layer. Its digest depends on their digests only.
func Image(config, layer pulp.Descriptor) pulp.Manifest {
	payload, _ := json.Marshal(map[string]any{"config": config.Digest, "layer": layer.Digest})
	return pulp.Manifest{
		Digest: digest.FromBytes(payload), MediaType: pulp.OCIManifest, SchemaVersion: 2, Payload: payload, Type: "image",
		Config: &config, Layers: []pulp.Descriptor{layer},
	}
}

// Index returns an index of manifests. Its digest depends on their digests only.
func Index(children ...pulp.Manifest) pulp.Manifest {
	m := pulp.Manifest{MediaType: pulp.OCIIndex, SchemaVersion: 2, Type: "index"}
	for _, c := range children {
		m.Children = append(m.Children, pulp.Descriptor{Digest: c.Digest, MediaType: c.MediaType})
		m.Payload = append(m.Payload, c.Digest...)
	}
	m.Digest = digest.FromBytes(m.Payload)
	return m
}

// Open returns a fresh, migrated store on disk, on the engine that pgtest.Variable names.
func Open(t testing.TB) *store.Store {
	t.Helper()
	return OpenURL(t, Database(t))
}

// OpenURL returns the store on a database and closes it at the end of the test.
func OpenURL(t testing.TB, url string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.DB.Close() })
	return s
}

// Database returns the URL of a fresh, migrated database, on the engine that pgtest.Variable names. It is a copy: only
// the first call of a test binary runs the migrations, which take longer than most tests.
func Database(t testing.TB) string {
	t.Helper()
	if pgtest.Selected(t) {
		return pgtest.Copy(t, func(url string) error { return migrate(t.Context(), url) })
	}
	file, err := migrated()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "countersign.db")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	return "sqlite:" + path
}

// migrated returns the bytes of an SQLite database without rows.
var migrated = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "storetest")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	path := filepath.Join(dir, "countersign.db")
	//nolint:forbidigo // the database is all tests', so the context of one must not end its creation
	if err := migrate(context.Background(), "sqlite:"+path); err != nil {
		return nil, err
	}
	return os.ReadFile(path)
})

// migrate creates the schema of an empty database.
func migrate(ctx context.Context, url string) error {
	s, err := store.Open(ctx, url)
	if err != nil {
		return err
	}
	return errors.Join(s.DB.Migrate(ctx), s.DB.Close())
}

// OpenAt returns a store with the schema of an older version, for tests of migrations. Until DB.Migrate, only plain
// statements work.
func OpenAt(t *testing.T, version int64) *store.Store {
	t.Helper()
	s := OpenEmpty(t)
	if err := s.DB.MigrateTo(t.Context(), version); err != nil {
		t.Fatal(err)
	}
	return s
}

// OpenEmpty returns a store without a schema.
func OpenEmpty(t *testing.T) *store.Store {
	t.Helper()
	return OpenURL(t, pgtest.Or(t, filepath.Join(t.TempDir(), "db", "countersign.db")))
}

// PushBlob commits a text as a pending blob of a repository.
func PushBlob(t *testing.T, s *store.Store, repositoryID, text string) pulp.Descriptor {
	t.Helper()
	b := pulp.Blob{Digest: digest.FromString(text), Size: int64(len(text)), Data: []byte(text), Inline: true}
	if err := s.Content.CommitBlob(t.Context(), repositoryID, b, "", 0); err != nil {
		t.Fatal(err)
	}
	return pulp.Descriptor{Digest: b.Digest, Size: b.Size, MediaType: "application/octet-stream"}
}

// PushImage pushes an image whose blobs contain a text, under tags, or by digest if there are none.
func PushImage(t *testing.T, s *store.Store, repositoryID, text string, tags ...string) (pulp.Manifest, *pulp.Version) {
	t.Helper()
	m := Image(PushBlob(t, s, repositoryID, "config "+text), PushBlob(t, s, repositoryID, "layer "+text))
	v, err := s.Content.PutManifest(t.Context(), content.PutManifest{RepositoryID: repositoryID, Manifest: m, Tags: tags})
	if err != nil {
		t.Fatal(err)
	}
	return m, v
}

// Exec executes a statement.
func Exec(t *testing.T, s *store.Store, query string, args ...any) {
	t.Helper()
	err := s.DB.InTx(t.Context(), func(x *sqldb.Tx) error { _, err := x.Exec(query, args...); return err })
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

// ExecAll executes statements in one transaction.
func ExecAll(t *testing.T, s *store.Store, statements ...string) {
	t.Helper()
	err := s.DB.InTx(t.Context(), func(x *sqldb.Tx) error {
		for _, text := range statements {
			if _, err := x.Exec(text); err != nil {
				return fmt.Errorf("%s: %w", text, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// SignatureOf returns a signature of a manifest that a target serves. Its content is not a valid signature; the store
// does not verify it.
func SignatureOf(t *testing.T, s *store.Store, to record.Target, m pulp.Manifest, content string) pulp.Signature {
	t.Helper()
	held, err := s.Serving.ServedManifest(t.Context(), to, string(m.Digest))
	if err != nil {
		t.Fatal(err)
	}
	return pulp.Signature{
		Digest: digest.FromString(content), Name: string(m.Digest) + "@x", ManifestID: held.ID, Content: []byte(content), KeyID: "45ACE14E3EBB9BBA",
		VerifiedBy: "8F336A705074623F7FC3273945ACE14E3EBB9BBA", Reference: "localhost/acme/app:v1", SignedAt: 1,
	}
}

// StartTask creates a task that reserves resources, and claims it.
func StartTask(t *testing.T, s *store.Store, resources ...taskstore.Resource) *taskstore.Claim {
	t.Helper()
	k, err := s.Tasks.CreateTask(t.Context(), taskstore.NewTask{Name: "test", Origin: taskstore.OriginSystem, Resources: resources})
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Tasks.ClaimTask(t.Context(), "worker", k.ID, nil, time.Minute)
	if err != nil || got == nil {
		t.Fatalf("claim: %v, %v", got, err)
	}
	return &taskstore.Claim{TaskID: k.ID, Attempt: got.Attempt}
}

// Target returns the target of a first push to a path.
func Target(t *testing.T, s *store.Store, path string) record.Target {
	t.Helper()
	got, err := s.Catalog.PushTarget(t.Context(), catalog.FirstPush{BasePath: path, Type: pulp.ContainerPush})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// User returns the active user with a name, who is no administrator, and creates it if there is none.
func User(t *testing.T, s *store.Store, name string) pulp.User {
	t.Helper()
	u, err := s.Accounts.UserByName(t.Context(), name)
	if fault.Is(err, fault.NotFound) {
		u, err = s.Accounts.PutUser(t.Context(), name, "hash", false, true)
	}
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// Grant gives a user a role on an object, which is an access.Key or empty for all objects.
func Grant(t *testing.T, s *store.Store, user int64, role, object string) {
	t.Helper()
	if err := s.DB.InTx(t.Context(), func(x *sqldb.Tx) error {
		s.Accounts.Changed(x)
		return accounts.Assign(x, user, role, object)
	}); err != nil {
		t.Fatal(err)
	}
}

// Own makes the user with a name the owner of the namespace of that name, if it exists.
func Own(t *testing.T, s *store.Store, name string) pulp.User {
	t.Helper()
	u := User(t, s, name)
	ids, err := sqldb.Collect(t.Context(), s.DB.Read(), sqldb.ScanString, `SELECT id FROM namespace WHERE name = $1`, name)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		Grant(t, s, u.ID, access.NamespaceOwner, access.Key(access.Namespace, id))
	}
	return u
}

// ViewerOf returns the viewer of the user with a name, who owns the namespace of that name; nil for an empty name.
func ViewerOf(t *testing.T, s *store.Store, name string) *access.Viewer {
	t.Helper()
	if name == "" {
		return nil
	}
	v, err := access.NewDecider(s.Accounts, nil).Viewer(t.Context(), &access.Caller{Account: Own(t, s, name)})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// Counts are the numbers of units of a version, by kind.
type Counts struct{ Blobs, Manifests, Signatures, Tags pulp.Count }

// WantCounts compares the counts of a version with those that the test expects. A nil version is an error.
func WantCounts(t *testing.T, v *pulp.Version, want Counts) {
	t.Helper()
	if v == nil {
		t.Fatalf("no version was made, want %+v", want)
	}
	got := Counts{
		Blobs: v.Counts[pulp.KindBlob], Manifests: v.Counts[pulp.KindManifest],
		Signatures: v.Counts[pulp.KindSignature], Tags: v.Counts[pulp.KindTag],
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("counts of version %d (-want +got):\n%s", v.Number, diff)
	}
}

// Plan returns the plan of a query, one step a line.
func Plan(t *testing.T, s *store.Store, query string) string {
	t.Helper()
	explain, width := "EXPLAIN QUERY PLAN ", 4
	if s.DB.IsPostgres() {
		explain, width = "EXPLAIN ", 1
	}
	steps, err := sqldb.Collect(t.Context(), s.DB.Read(), func(row sqldb.Scanner) (string, error) {
		var step string
		columns := make([]any, width)
		for i := range columns {
			columns[i] = new(any)
		}
		columns[width-1] = &step
		err := row.Scan(columns...)
		return step, err
	}, explain+query)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(steps, "\n") + "\n"
}
