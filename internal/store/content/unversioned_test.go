package content_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/eventually"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/storetest"
)

// unversioned returns the rows of unversioned_content as "reason kind unit", sorted.
func unversioned(t *testing.T, s *store.Store) []string {
	t.Helper()
	rows, err := sqldb.Collect(t.Context(), s.DB.Read(), sqldb.ScanString,
		`SELECT reason || ' ' || kind || ' ' || content_id FROM unversioned_content ORDER BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

func TestMigrationMovesUnversionedContent(t *testing.T) {
	t.Parallel()
	s := storetest.OpenAt(t, 12)
	blob, manifest, signature := digest.FromString("blob"), digest.FromString("manifest"), digest.FromString("signature")
	storetest.ExecAll(t, s,
		`INSERT INTO repository (id, type, name, created, updated) VALUES ('r', 'container-push', 'acme/app', 1, 1)`,
		`INSERT INTO repository_version (id, repository_id, number, created, updated) VALUES ('v0', 'r', 0, 1, 1)`,
		`INSERT INTO namespace (id, name, created, updated) VALUES ('n', 'acme', 1, 1)`,
		`INSERT INTO distribution (id, name, base_path, namespace_id, repository_id, created, updated) VALUES ('d', 'acme/app', 'acme/app', 'n', 'r', 1, 1)`,
		`INSERT INTO blob (id, digest, size, data, created, updated) VALUES ('b', '`+string(blob)+`', 0, x'', 1, 1)`,
		`INSERT INTO manifest (id, digest, media_type, schema_version, payload, type, created, updated)
		 VALUES ('m', '`+string(manifest)+`', 'application/json', 2, x'', 'image', 1, 1)`,
		`INSERT INTO signature (id, digest, name, manifest_id, content, key_id, verified_by, reference, signed_at, created, updated)
		 VALUES ('g', '`+string(signature)+`', 'm@x', 'm', x'', 'K', 'FINGERPRINT', 'registry/acme/app:v1', 1, 1, 1)`,
		`INSERT INTO task (id, seq, name, state, attempt, created, updated) VALUES ('t', 1, 'sign', 'running', 1, 7, 7)`,
		`INSERT INTO pending_content (repository_id, kind, key, content_id, touched) VALUES ('r', 1, '`+string(blob)+`', 'b', 5), ('r', 2, '`+string(manifest)+`', 'm', 6)`,
		`INSERT INTO fetched_content (repository_id, kind, key, content_id, touched) VALUES ('r', 1, '`+string(blob)+`', 'b', 8)`,
		`INSERT INTO staged_signature (task_id, manifest_id, reference, fingerprint, signature_id) VALUES ('t', 'm', 'registry/acme/app:v1', 'FINGERPRINT', 'g')`,
	)
	if err := s.DB.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"fetched 1 b", "pending 1 b", "pending 2 m", "staged 4 g"}, unversioned(t, s)); diff != "" {
		t.Errorf("rows after the migration (-want +got):\n%s", diff)
	}
	touched, err := sqldb.Collect(t.Context(), s.DB.Read(), sqldb.ScanString, `SELECT reason || touched FROM unversioned_content ORDER BY touched`)
	if diff := cmp.Diff([]string{"pending5", "pending6", "staged7", "fetched8"}, touched); err != nil || diff != "" {
		t.Errorf("touched: %v (-want +got):\n%s", err, diff)
	}
	to, err := s.Serving.Resolve(t.Context(), "acme/app")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := s.Serving.ServedBlob(t.Context(), to, blob); err != nil || b.ID != "b" {
		t.Errorf("the pending blob: %+v, %v", b, err)
	}
	if have, _, err := s.Content.HasBlob(t.Context(), "r", blob); err != nil || have != content.HaveFetched {
		t.Errorf("the fetched blob: %v, %v, want HaveFetched", have, err)
	}
	staged, err := s.Signatures.Staged(t.Context(), "t", "FINGERPRINT")
	if err != nil || len(staged) != 1 || staged[0].ManifestID != "m" || staged[0].Reference != "registry/acme/app:v1" {
		t.Errorf("the staged signature: %v, %v", staged, err)
	}
	storetest.Exec(t, s, `DELETE FROM repository WHERE id = 'r'`)
	if diff := cmp.Diff([]string{"staged 4 g"}, unversioned(t, s)); diff != "" {
		t.Errorf("rows after the repository was deleted (-want +got):\n%s", diff)
	}
	storetest.Exec(t, s, `DELETE FROM task WHERE id = 't'`)
	if rows := unversioned(t, s); len(rows) != 0 {
		t.Errorf("rows after the task was deleted: %v", rows)
	}
}

// TestMigrationWaitsForWriters migrates while another process, which should have been stopped, is storing a pending blob.
func TestMigrationWaitsForWriters(t *testing.T) {
	t.Parallel()
	s := storetest.OpenAt(t, 12)
	if !s.DB.IsPostgres() {
		t.Skip("SQLite belongs to one process")
	}
	storetest.ExecAll(t, s, `INSERT INTO repository (id, type, name, created, updated) VALUES ('r', 'container-push', 'acme/app', 1, 1)`)
	migrated := make(chan error, 1)
	err := s.DB.InTx(t.Context(), func(x *sqldb.Tx) error {
		_, err := x.Exec(`INSERT INTO pending_content (repository_id, kind, key, content_id, touched) VALUES ('r', 1, 'digest', 'b', 5)`)
		if err != nil {
			return err
		}
		go func() { migrated <- s.DB.Migrate(t.Context()) }()
		eventually.NoError(t, time.Minute, func() error {
			var waits bool
			err := x.Row(`SELECT EXISTS (SELECT 1 FROM pg_locks WHERE relation = 'pending_content'::regclass AND NOT granted)`).Scan(&waits)
			if err == nil && !waits {
				err = errors.New("no process waits for the table")
			}
			return err
		}, "the migration")
		return nil
	})
	if err := errors.Join(err, <-migrated); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"pending 1 b"}, unversioned(t, s)); diff != "" {
		t.Errorf("rows after the migration (-want +got):\n%s", diff)
	}
}

func TestAUnitIsPendingAndFetchedAtOnce(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	to := storetest.Target(t, s, "acme/app")
	d := storetest.PushBlob(t, s, to.Repository.ID, "both").Digest
	b, err := s.Serving.Blob(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	if taken, err := s.Content.TakeBlob(t.Context(), to.Repository.ID, "", d); err != nil || !taken {
		t.Fatalf("TakeBlob = %t, %v", taken, err)
	}
	if diff := cmp.Diff([]string{"fetched 1 " + b.ID, "pending 1 " + b.ID}, unversioned(t, s)); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	if _, err := s.Serving.ServedBlob(t.Context(), to, d); err != nil {
		t.Errorf("the blob is not served: %v", err)
	}
	if _, err := s.Content.DeleteBlob(t.Context(), to.Repository.ID, d); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"fetched 1 " + b.ID}, unversioned(t, s)); diff != "" {
		t.Errorf("rows after the deletion of the blob (-want +got):\n%s", diff)
	}
	if _, err := s.Serving.ServedBlob(t.Context(), to, d); !fault.Is(err, fault.NotFound) {
		t.Errorf("a blob that is fetched only: %v, want NotFound", err)
	}
}

func TestStagedSignaturesAreNotServed(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	to := storetest.Target(t, s, "acme/app")
	m, _ := storetest.PushImage(t, s, to.Repository.ID, "one") // pending
	claim := storetest.StartTask(t, s)
	g := storetest.SignatureOf(t, s, to, m, "signature")
	if err := s.Signatures.StageSignatures(t.Context(), claim, []pulp.Signature{g}); err != nil {
		t.Fatal(err)
	}
	if served, err := s.Serving.ServedSignatures(t.Context(), to, g.ManifestID); err != nil || len(served) != 0 {
		t.Errorf("served: %v, %v, want none", served, err)
	}
	if have, err := s.Content.HasSignature(t.Context(), to.Repository.ID, g.Digest); err != nil || have != content.HaveNothing {
		t.Errorf("HasSignature = %v, %v, want HaveNothing", have, err)
	}
}

// TestUnversionedContentIsFoundByIndex reads the plans of the statements that pushes and syncs run for each unit, with statistics that
// no longer hold.
func TestUnversionedContentIsFoundByIndex(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	repository := storetest.Target(t, s, "acme/app").Repository.ID
	storetest.ExecAll(t, s, fmt.Sprintf(`
		INSERT INTO unversioned_content (reason, repository_id, kind, key, content_id, touched) VALUES ('pending', '%s', 2, 'one', 'one', 1)`, repository),
		`ANALYZE`, fmt.Sprintf(`
		INSERT INTO unversioned_content (reason, repository_id, kind, key, content_id, touched)
		WITH RECURSIVE series (n) AS (SELECT CAST(1 AS BIGINT) UNION ALL SELECT n + 1 FROM series WHERE n < 2000)
		SELECT r.reason, '%s', 2, 'm' || n, 'm' || n, 1 FROM series, (SELECT 'pending' AS reason UNION ALL SELECT 'fetched') r`, repository))
	const key, task, unit = "unversioned_content_key", "unversioned_content_task", "unversioned_content_unit"
	for name, c := range map[string]struct{ query, index string }{
		"pending unit":   {`SELECT 1 WHERE ` + record.IsPending("'r'", "2", "'x'"), key},
		"fetched unit":   {`SELECT 1 FROM unversioned_content f WHERE ` + record.Fetched("'r'") + ` AND f.kind = 2 AND f.key = 'x'`, key},
		"drop pending":   {`DELETE FROM unversioned_content AS p WHERE ` + record.Pending("'r'") + ` AND p.kind = 2 AND p.key = 'x'`, key},
		"end of a sync":  {`DELETE FROM unversioned_content AS f WHERE ` + record.Fetched("'r'"), key},
		"drop staged":    {`DELETE FROM unversioned_content WHERE task_id = 't'`, task},
		"unit anywhere":  {`SELECT 1 FROM unversioned_content x WHERE x.content_id = 'x'`, unit},
		"touch a unit":   {`UPDATE unversioned_content SET touched = 1 WHERE repository_id = 'r' AND reason = 'pending' AND kind = 2 AND key = 'x'`, key},
		"delete of repo": {`DELETE FROM unversioned_content WHERE repository_id = 'r'`, key},
	} {
		if plan := storetest.Plan(t, s, c.query); !strings.Contains(plan, c.index) {
			t.Errorf("%s does not use %s:\n%s", name, c.index, plan)
		}
	}
}

// TestUnitsOfARepositoryAreFoundWithoutStatistics reads the plans of the conditions that syncs, copies and removals repeat for each
// unit, in a database that was never analyzed: SQLite reads all pending or fetched units of the repository otherwise.
func TestUnitsOfARepositoryAreFoundWithoutStatistics(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	if s.DB.IsPostgres() {
		t.Skip("PostgreSQL gathers statistics by itself")
	}
	for name, query := range map[string]string{
		"fetched": `SELECT u.id FROM manifest u WHERE ` + strings.ReplaceAll(content.HeldOrFetched("r").Condition, "$3", "'r'"),
		"pending": `SELECT k.blob_id FROM blob_claim k WHERE NOT EXISTS (
			SELECT 1 FROM unversioned_content p WHERE ` + record.Pending("'r'") + ` AND p.content_id = k.blob_id)`,
	} {
		if plan := storetest.Plan(t, s, query); !strings.Contains(plan, "unversioned_content_unit (content_id=? AND repository_id=? AND reason=?)") {
			t.Errorf("%s: the plan does not look up the unit:\n%s", name, plan)
		}
	}
}
