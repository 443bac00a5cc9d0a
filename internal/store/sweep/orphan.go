package sweep

import (
	"context"
	"fmt"
	"time"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// unneededManifest is the condition that a pending manifest, a row p of unversioned_content, is an orphan if it is also older than
// $2 (compatibility.md#pending-content): no version holds it, no index and no referrer of its repository refers to it, and no
// signature of it was added since $2. $3 is the kind of signatures.
const unneededManifest = `
	NOT EXISTS (SELECT 1 FROM repository_content c WHERE c.content_id = p.content_id) AND
	NOT EXISTS (SELECT 1 FROM manifest_child e JOIN manifest m ON m.id = e.manifest_id WHERE e.digest = p.key AND ` + inRepository + `) AND
	NOT EXISTS (SELECT 1 FROM manifest m WHERE m.subject = p.key AND ` + inRepository + `) AND
	NOT EXISTS (SELECT 1 FROM unversioned_content s JOIN signature g ON g.id = s.content_id
	             WHERE s.repository_id = p.repository_id AND s.reason = 'pending' AND s.kind = $3 AND s.touched >= $2
	               AND g.manifest_id = p.content_id)`

// inRepository is the condition that a manifest m is in a version of p's repository, or pending or fetched there.
const inRepository = `(
	EXISTS (SELECT 1 FROM repository_content c WHERE c.repository_id = p.repository_id AND c.content_id = m.id) OR
	EXISTS (SELECT 1 FROM unversioned_content x WHERE x.repository_id = p.repository_id AND x.content_id = m.id))`

// SweepPendingManifests deletes the records of orphaned pending manifests that were last touched before a time, oldest first, and of
// the pending signatures of them. Only an explicit orphan cleanup calls it (compatibility.md#pending-content). It returns the number
// of deleted records of manifests, at most limit. The children of a deleted index may be orphans for the next call.
func (s *Store) SweepPendingManifests(ctx context.Context, before time.Time, limit int) (int64, error) {
	return locked(ctx, s, func(t *sqldb.Tx) (int64, error) {
		n, err := dropManifests(t, before, oldPending, ` ORDER BY p.touched LIMIT $4`, limit)
		if err != nil {
			return 0, err
		}
		return n, dropSignatures(t, before)
	})
}

// dropManifests deletes the records of orphaned pending manifests. condition narrows the rows p, rest continues their query; $1 is
// the kind of manifests, $2 is before and $4 is arg.
func dropManifests(t *sqldb.Tx, before time.Time, condition, rest string, arg any) (int64, error) {
	return t.Exec(`
		DELETE FROM unversioned_content WHERE `+rowIn+` (
			SELECT `+rowOf+` FROM unversioned_content p WHERE `+condition+` AND `+unneededManifest+rest+`)`,
		pulp.KindManifest, sqldb.Micros(before), pulp.KindSignature, arg)
}

// dropSignatures deletes the records of old pending signatures whose manifest is not in their repository.
func dropSignatures(t *sqldb.Tx, before time.Time) error {
	_, err := t.Exec(`
		DELETE FROM unversioned_content WHERE `+rowIn+` (
			SELECT `+rowOf+`
			  FROM unversioned_content p JOIN signature g ON g.id = p.content_id JOIN manifest m ON m.id = g.manifest_id
			 WHERE `+oldPending+` AND NOT `+inRepository+`)`, pulp.KindSignature, sqldb.Micros(before))
	return err
}

// sweepUnit are the statements that delete a unit u with the id $1 if it is unreferenced and older than $2.
var sweepUnit = map[pulp.Kind][]string{
	pulp.KindSignature: {
		`DELETE FROM signature WHERE id IN (SELECT u.id FROM signature u WHERE u.id = $1 AND u.created < $2 AND ` + unreferenced + `)`,
	},
	pulp.KindTag: {
		`DELETE FROM tag WHERE id IN (SELECT u.id FROM tag u WHERE u.id = $1 AND u.created < $2 AND ` + unreferenced + `)`,
	},
	// Unreferenced tags and signatures of a manifest are deleted with it: they refer to its row.
	pulp.KindManifest: {
		`DELETE FROM signature WHERE id IN (
			SELECT u.id FROM signature u WHERE u.manifest_id = $1 AND u.created < $2 AND ` + unreferenced + ofUnreferenced + `)`,
		`DELETE FROM tag WHERE id IN (
			SELECT u.id FROM tag u WHERE u.manifest_id = $1 AND u.created < $2 AND ` + unreferenced + ofUnreferenced + `)`,
		`DELETE FROM manifest WHERE id IN (
			SELECT u.id FROM manifest u WHERE u.id = $1 AND u.created < $2 AND ` + unreferenced + ` AND ` + unlinked + `)`,
	},
	pulp.KindBlob: {
		`DELETE FROM blob WHERE id IN (
			SELECT u.id FROM blob u WHERE u.id = $1 AND (u.data IS NOT NULL OR u.absent AND NOT u.deleting) AND u.updated < $2 AND ` + unreferenced + `)`,
	},
}

// ofUnreferenced is the condition that the manifest $1 is unreferenced and older than $2.
const ofUnreferenced = ` AND EXISTS (SELECT 1 FROM manifest m WHERE m.id = $1 AND m.created < $2 AND
	NOT EXISTS (SELECT 1 FROM repository_content c WHERE c.content_id = m.id) AND
	NOT EXISTS (SELECT 1 FROM unversioned_content x WHERE x.content_id = m.id))`

// SweepUnit deletes one unit if SweepPendingManifests, SweepPending and SweepOrphans would delete it, given the same time. It leaves
// blobs whose bytes are in the storage registry to DoomBlob. It returns the number of deleted units.
func (s *Store) SweepUnit(ctx context.Context, u record.Unit, before time.Time) (int64, error) {
	return locked(ctx, s, func(t *sqldb.Tx) (int64, error) {
		if err := dropPending(t, u, before); err != nil {
			return 0, err
		}
		return execAll(t, sweepUnit[u.Kind], u.ID, sqldb.Micros(before))
	})
}

// onePending is oldPending for the unit $4, which is found by its own index.
const onePending = `p.reason = 'pending' AND p.kind = $1 AND p.touched < $2 AND p.content_id = $4`

// dropPending deletes the records of a unit as pending, in the repositories where nothing refers to it.
func dropPending(t *sqldb.Tx, u record.Unit, before time.Time) error {
	switch u.Kind {
	case pulp.KindManifest:
		if _, err := dropManifests(t, before, onePending, "", u.ID); err != nil {
			return err
		}
		return dropSignatures(t, before)
	case pulp.KindBlob:
		_, err := t.Exec(`
			DELETE FROM unversioned_content WHERE `+rowIn+` (
				SELECT `+rowOf+` FROM unversioned_content p
				 WHERE `+onePending+` AND NOT `+named+`)`, pulp.KindBlob, sqldb.Micros(before), pulp.KindManifest, u.ID)
		return err
	case pulp.KindTag, pulp.KindSignature: // tags are never pending; pending signatures are deleted with their manifest
		return nil
	}
	return fmt.Errorf("sweep %s: unknown kind of unit", u.Kind)
}

// DoomBlob is DoomBlobs of one blob.
func (s *Store) DoomBlob(ctx context.Context, id string, before time.Time) ([]DoomedBlob, error) {
	return locked(ctx, s, func(t *sqldb.Tx) ([]DoomedBlob, error) {
		return sqldb.Collect(t.Ctx, t, scanDoomed, `
			UPDATE blob SET deleting = TRUE WHERE id IN (
				SELECT u.id FROM blob u
				 WHERE u.id = $1 AND u.data IS NULL AND NOT u.absent AND (u.deleting OR u.updated < $2 AND `+unreferenced+`))
			RETURNING id, digest, location`, id, sqldb.Micros(before))
	})
}
