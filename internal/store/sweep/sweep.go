package sweep

import (
	"context"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/uploads"
)

// SweepUploads forgets uploads that nobody has touched since a time, at most limit, and returns them; those with a StorageRef have bytes in the
// storage registry to be dropped, under the name of their repository.
func (s *Store) SweepUploads(ctx context.Context, before time.Time, limit int) ([]uploads.Upload, error) {
	var swept []uploads.Upload
	err := s.db.InTx(ctx, func(t *sqldb.Tx) error {
		var err error
		swept, err = sqldb.Collect(t.Ctx, t, uploads.ScanUpload, `
			DELETE FROM upload WHERE id IN (SELECT id FROM upload WHERE touched < $1 ORDER BY touched LIMIT $2)
			RETURNING `+uploads.UploadColumns, sqldb.Micros(before), limit)
		return err
	})
	return swept, err
}

// named is the condition that a manifest which waits in p's repository, to be signed perhaps, names the blob p. $3 is the kind of manifests.
const named = `EXISTS (
	SELECT 1 FROM manifest_blob mb JOIN manifest m ON m.id = mb.manifest_id WHERE mb.digest = p.key AND
		EXISTS (SELECT 1 FROM unversioned_content x
		 WHERE x.repository_id = p.repository_id AND x.reason IN ('pending', 'fetched') AND x.kind = $3 AND x.key = m.digest))`

// oldPending is the condition that a row p of unversioned_content is of a pending unit of kind $1 and was last touched before $2;
// oldFetched that it is of a fetched unit and was last touched before $1. Both are worded for the indexes that migration 13 makes
// for sweeps.
const (
	oldPending = `p.reason = 'pending' AND p.kind = $1 AND p.touched >= 0 AND p.touched < $2`
	oldFetched = `p.reason = 'fetched' AND p.touched >= 0 AND p.touched < $1`
)

// rowIn and rowOf select rows of unversioned_content for deletion: rowOf are the columns of a row p that identify it, rowIn is the
// condition that they are among those of a query.
const (
	rowIn = `(repository_id, reason, kind, key) IN`
	rowOf = `p.repository_id, p.reason, p.kind, p.key`
)

// SweepPending forgets that blobs wait in repositories which nobody has touched since a time, unless a pending manifest there names them (compatibility.md#pending-content). It returns
// how many it forgot, at most limit.
func (s *Store) SweepPending(ctx context.Context, before time.Time, limit int) (int64, error) {
	var n int64
	err := s.db.InTx(ctx, func(t *sqldb.Tx) error {
		if err := t.LockContent(); err != nil {
			return err
		}
		var err error
		n, err = t.Exec(`
			DELETE FROM unversioned_content WHERE `+rowIn+` (
				SELECT `+rowOf+` FROM unversioned_content p
				 WHERE `+oldPending+` AND NOT `+named+`
				 ORDER BY p.touched LIMIT $4)`, pulp.KindBlob, sqldb.Micros(before), pulp.KindManifest, limit)
		return err
	})
	return n, err
}

// SweepFetched forgets what syncs have fetched before a time and no sync since has wanted; repositories that a task has reserved, perhaps to be synced, are left alone. It
// returns how much it forgot, at most limit.
func (s *Store) SweepFetched(ctx context.Context, before time.Time, limit int) (int64, error) {
	var n int64
	err := s.db.InTx(ctx, func(t *sqldb.Tx) error {
		var err error
		n, err = t.Exec(`
			DELETE FROM unversioned_content WHERE `+rowIn+` (
				SELECT `+rowOf+` FROM unversioned_content p
				 WHERE `+oldFetched+` AND NOT EXISTS (
					SELECT 1 FROM task_resource x WHERE x.active AND x.resource = $3 || p.repository_id || '/')
				 ORDER BY p.touched LIMIT $2)`, sqldb.Micros(before), limit, pulp.Root+pulp.ContainerCollection)
		return err
	})
	return n, err
}

// unreferenced is the condition that a content unit is in no version of any repository, waits in none and was fetched for none.
const unreferenced = `
	NOT EXISTS (SELECT 1 FROM repository_content c WHERE c.content_id = u.id) AND
	NOT EXISTS (SELECT 1 FROM unversioned_content x WHERE x.content_id = u.id)`

// SweepOrphans removes signatures, tags and manifests that are in no version of any repository, wait in none, and are older than a time. It
// returns how many it removed, at most limit of each.
func (s *Store) SweepOrphans(ctx context.Context, before time.Time, limit int) (int64, error) {
	var n int64
	err := s.db.InTx(ctx, func(t *sqldb.Tx) error {
		n = 0
		if err := t.LockContent(); err != nil {
			return err
		}
		if _, err := t.Exec(`
			DELETE FROM unversioned_content WHERE task_id IS NOT NULL AND task_id IN (SELECT id FROM task WHERE finished IS NOT NULL AND finished < $1)`, sqldb.Micros(before)); err != nil {
			return err
		}
		for _, query := range []string{
			`DELETE FROM signature WHERE id IN (SELECT u.id FROM signature u WHERE u.created < $1 AND ` + unreferenced + ` LIMIT $2)`,
			`DELETE FROM tag WHERE id IN (SELECT u.id FROM tag u WHERE u.created < $1 AND ` + unreferenced + ` LIMIT $2)`,
			`DELETE FROM manifest WHERE id IN (SELECT u.id FROM manifest u WHERE u.created < $1 AND ` + unreferenced + `
				AND NOT EXISTS (SELECT 1 FROM tag t WHERE t.manifest_id = u.id)
				AND NOT EXISTS (SELECT 1 FROM signature g WHERE g.manifest_id = u.id) LIMIT $2)`,
			`DELETE FROM blob WHERE id IN (SELECT u.id FROM blob u WHERE (u.data IS NOT NULL OR u.absent) AND u.updated < $1 AND ` + unreferenced + ` LIMIT $2)`,
		} {
			removed, err := t.Exec(query, sqldb.Micros(before), limit)
			if err != nil {
				return err
			}
			n += removed
		}
		return nil
	})
	return n, err
}

// DoomedBlob is a blob whose bytes are to be removed from the storage registry.
type DoomedBlob struct {
	ID       string
	Digest   digest.Digest
	Location string
}

// DoomBlobs marks blobs whose bytes are in the storage registry as being deleted: those that are in no version, wait in no repository
// and are older than a time, and those that an earlier call marked. It returns them, at most limit. While a blob is marked nobody may take it up again (ErrDeleting).
func (s *Store) DoomBlobs(ctx context.Context, before time.Time, limit int) ([]DoomedBlob, error) {
	var doomed []DoomedBlob
	err := s.db.InTx(ctx, func(t *sqldb.Tx) error {
		if err := t.LockContent(); err != nil {
			return err
		}
		var err error
		doomed, err = sqldb.Collect(t.Ctx, t, func(row sqldb.Scanner) (DoomedBlob, error) {
			var b DoomedBlob
			err := row.Scan(&b.ID, &b.Digest, &b.Location)
			return b, err
		}, `UPDATE blob SET deleting = TRUE WHERE id IN (
				SELECT u.id FROM blob u WHERE u.data IS NULL AND NOT u.absent AND (u.deleting OR u.updated < $1 AND `+unreferenced+`) LIMIT $2)
			RETURNING id, digest, location`, sqldb.Micros(before), limit)
		return err
	})
	return doomed, err
}

// ForgetBlob removes the row of a blob whose bytes are gone.
func (s *Store) ForgetBlob(ctx context.Context, id string) error {
	return s.db.InTx(ctx, func(t *sqldb.Tx) error {
		_, err := t.Exec(`DELETE FROM blob WHERE id = $1 AND deleting`, id)
		return err
	})
}
