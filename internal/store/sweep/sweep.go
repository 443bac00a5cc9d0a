package sweep

import (
	"context"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/uploads"
)

// SweepUploads deletes upload sessions that were last touched before a time, oldest first, at most limit, and returns them. The
// caller deletes the bytes in the storage registry of those with a StorageRef; they are under the name of the upload's repository.
func (s *Store) SweepUploads(ctx context.Context, before time.Time, limit int) ([]uploads.Upload, error) {
	return sqldb.InTx(ctx, s.db, func(t *sqldb.Tx) ([]uploads.Upload, error) {
		return sqldb.Collect(t.Ctx, t, uploads.ScanUpload, `
			DELETE FROM upload WHERE id IN (SELECT id FROM upload WHERE touched < $1 ORDER BY touched LIMIT $2)
			RETURNING `+uploads.UploadColumns, sqldb.Micros(before), limit)
	})
}

// named is the condition that a pending or fetched manifest of p's repository names the blob p. $3 is the kind of manifests.
const named = `EXISTS (
	SELECT 1 FROM manifest_blob mb JOIN manifest m ON m.id = mb.manifest_id WHERE mb.digest = p.key AND
		EXISTS (SELECT 1 FROM unversioned_content x
		 WHERE x.repository_id = p.repository_id AND x.reason IN ('pending', 'fetched') AND x.kind = $3 AND x.key = m.digest))`

// oldPending is the condition that a row p of unversioned_content is of a pending unit of kind $1 and was last touched before $2;
// oldFetched that it is of a fetched unit and was last touched before $1. Their wording makes the planners use the indexes that
// migration 13 creates for sweeps.
const (
	oldPending = `p.reason = 'pending' AND p.kind = $1 AND p.touched >= 0 AND p.touched < $2`
	oldFetched = `p.reason = 'fetched' AND p.touched >= 0 AND p.touched < $1`
)

// rowIn and rowOf select rows of unversioned_content for deletion: rowOf are the columns that identify a row p, rowIn is the
// condition that they are among the results of a query.
const (
	rowIn = `(repository_id, reason, kind, key) IN`
	rowOf = `p.repository_id, p.reason, p.kind, p.key`
)

// SweepPending deletes the records of pending blobs that were last touched before a time and that no pending or fetched manifest of
// their repository names (compatibility.md#pending-content), oldest first. It returns the number of deleted records, at most limit.
func (s *Store) SweepPending(ctx context.Context, before time.Time, limit int) (int64, error) {
	return locked(ctx, s, func(t *sqldb.Tx) (int64, error) {
		return t.Exec(`
			DELETE FROM unversioned_content WHERE `+rowIn+` (
				SELECT `+rowOf+` FROM unversioned_content p
				 WHERE `+oldPending+` AND NOT `+named+`
				 ORDER BY p.touched LIMIT $4)`, pulp.KindBlob, sqldb.Micros(before), pulp.KindManifest, limit)
	})
}

// SweepFetched deletes the records of fetched units that were last touched before a time, oldest first. It skips repositories that a
// task has reserved, because the task may be a sync. It returns the number of deleted records, at most limit.
func (s *Store) SweepFetched(ctx context.Context, before time.Time, limit int) (int64, error) {
	return sqldb.InTx(ctx, s.db, func(t *sqldb.Tx) (int64, error) {
		return t.Exec(`
			DELETE FROM unversioned_content WHERE `+rowIn+` (
				SELECT `+rowOf+` FROM unversioned_content p
				 WHERE `+oldFetched+` AND NOT EXISTS (
					SELECT 1 FROM task_resource x WHERE x.active AND x.resource = $3 || p.repository_id || '/')
				 ORDER BY p.touched LIMIT $2)`, sqldb.Micros(before), limit, pulp.Root+pulp.ContainerCollection)
	})
}

// unreferenced is the condition that no version of any repository holds a content unit u and that it has no other reason to stay.
const unreferenced = `
	NOT EXISTS (SELECT 1 FROM repository_content c WHERE c.content_id = u.id) AND
	NOT EXISTS (SELECT 1 FROM unversioned_content x WHERE x.content_id = u.id)`

// unlinked is the condition that no tag and no signature refers to a manifest u.
const unlinked = `
	NOT EXISTS (SELECT 1 FROM tag t WHERE t.manifest_id = u.id) AND
	NOT EXISTS (SELECT 1 FROM signature g WHERE g.manifest_id = u.id)`

// SweepOrphans deletes unreferenced signatures, tags, manifests, small blobs and absent blobs that are older than a time, and the
// records of signatures that were staged by tasks which ended before it. It returns the number of deleted units, at most limit of
// each statement.
func (s *Store) SweepOrphans(ctx context.Context, before time.Time, limit int) (int64, error) {
	return locked(ctx, s, func(t *sqldb.Tx) (int64, error) {
		if _, err := t.Exec(`
			DELETE FROM unversioned_content
			 WHERE task_id IS NOT NULL AND task_id IN (SELECT id FROM task WHERE finished IS NOT NULL AND finished < $1)`,
			sqldb.Micros(before)); err != nil {
			return 0, err
		}
		return execAll(t, []string{
			`DELETE FROM signature WHERE id IN (SELECT u.id FROM signature u WHERE u.created < $1 AND ` + unreferenced + ` LIMIT $2)`,
			`DELETE FROM tag WHERE id IN (SELECT u.id FROM tag u WHERE u.created < $1 AND ` + unreferenced + ` LIMIT $2)`,
			`DELETE FROM manifest WHERE id IN (
				SELECT u.id FROM manifest u WHERE u.created < $1 AND ` + unreferenced + ` AND ` + unlinked + ` LIMIT $2)`,
			`DELETE FROM blob WHERE id IN (
				SELECT u.id FROM blob u WHERE (u.data IS NOT NULL OR u.absent AND NOT u.deleting) AND u.updated < $1 AND ` + unreferenced + ` LIMIT $2)`,
		}, sqldb.Micros(before), limit)
	})
}

// execAll runs statements with the same arguments and returns the number of rows that they change together.
func execAll(t *sqldb.Tx, statements []string, args ...any) (int64, error) {
	var sum int64
	for _, text := range statements {
		n, err := t.Exec(text, args...)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// DoomedBlob is a blob whose bytes must be deleted from the storage registry.
type DoomedBlob struct {
	ID       string
	Digest   digest.Digest
	Location string
}

func scanDoomed(row sqldb.Scanner) (DoomedBlob, error) {
	var b DoomedBlob
	err := row.Scan(&b.ID, &b.Digest, &b.Location)
	return b, err
}

// DoomBlobs marks unreferenced blobs that are older than a time and whose bytes are in the storage registry as being deleted. It
// returns them and those that earlier calls marked, at most limit. Nobody can reference a marked blob: commits of it fail with
// content.ErrDeleting until ForgetBlob.
func (s *Store) DoomBlobs(ctx context.Context, before time.Time, limit int) ([]DoomedBlob, error) {
	return locked(ctx, s, func(t *sqldb.Tx) ([]DoomedBlob, error) {
		return sqldb.Collect(t.Ctx, t, scanDoomed, `
			UPDATE blob SET deleting = TRUE WHERE id IN (
				SELECT u.id FROM blob u
				 WHERE u.data IS NULL AND NOT u.absent AND (u.deleting OR u.updated < $1 AND `+unreferenced+`) LIMIT $2)
			RETURNING id, digest, location`, sqldb.Micros(before), limit)
	})
}

// ForgetBlob deletes the row of a marked blob after its bytes were deleted.
func (s *Store) ForgetBlob(ctx context.Context, id string) error {
	return s.db.InTx(ctx, func(t *sqldb.Tx) error {
		_, err := t.Exec(`DELETE FROM blob WHERE id = $1 AND deleting`, id)
		return err
	})
}
