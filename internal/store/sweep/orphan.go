package sweep

import (
	"context"
	"fmt"
	"time"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// forgettable is the condition that a manifest which was pushed by digest (p, a row of unversioned_content) is an orphan (compatibility.md#pending-content): it has waited since before $2, is in
// no version, no list and no referrer of its repository names it, and nobody has signed it since. $1 and $3 are the kinds of manifests and signatures.
const forgettable = `
	` + oldPending + ` AND
	NOT EXISTS (SELECT 1 FROM repository_content c WHERE c.content_id = p.content_id) AND
	NOT EXISTS (SELECT 1 FROM manifest_child e JOIN manifest m ON m.id = e.manifest_id WHERE e.digest = p.key AND ` + inRepository + `) AND
	NOT EXISTS (SELECT 1 FROM manifest m WHERE m.subject = p.key AND ` + inRepository + `) AND
	NOT EXISTS (SELECT 1 FROM unversioned_content s JOIN signature g ON g.id = s.content_id
	             WHERE s.repository_id = p.repository_id AND s.reason = 'pending' AND s.kind = $3 AND s.touched >= $2 AND g.manifest_id = p.content_id)`

// inRepository is the condition that a manifest m is in a version of p's repository or waits in it, to be signed perhaps.
const inRepository = `(
	EXISTS (SELECT 1 FROM repository_content c WHERE c.repository_id = p.repository_id AND c.content_id = m.id) OR
	EXISTS (SELECT 1 FROM unversioned_content x WHERE x.repository_id = p.repository_id AND x.content_id = m.id))`

// SweepPendingManifests forgets that manifests wait which were pushed by digest, longest before a time, and which nothing refers to; and with them the signatures that wait for
// them. Only who asks for orphans to be removed wants that (compatibility.md#pending-content). It returns how many it forgot, at most limit: what those named may be forgotten next.
func (s *Store) SweepPendingManifests(ctx context.Context, before time.Time, limit int) (int64, error) {
	var n int64
	err := s.db.InTx(ctx, func(t *sqldb.Tx) error {
		if err := t.LockContent(); err != nil {
			return err
		}
		var err error
		if n, err = forgetManifests(t, before, ` ORDER BY p.touched LIMIT $4`, limit); err != nil {
			return err
		}
		return forgetSignatures(t, before)
	})
	return n, err
}

// forgetManifests forgets forgettable manifests; rest narrows which, its $4 is arg.
func forgetManifests(t *sqldb.Tx, before time.Time, rest string, arg any) (int64, error) {
	return t.Exec(`
		DELETE FROM unversioned_content WHERE `+rowIn+` (
			SELECT `+rowOf+` FROM unversioned_content p WHERE `+forgettable+rest+`)`,
		pulp.KindManifest, sqldb.Micros(before), pulp.KindSignature, arg)
}

// forgetSignatures forgets signatures that wait for a manifest which waits no more and has come into no version.
func forgetSignatures(t *sqldb.Tx, before time.Time) error {
	_, err := t.Exec(`
		DELETE FROM unversioned_content WHERE `+rowIn+` (
			SELECT `+rowOf+` FROM unversioned_content p JOIN signature g ON g.id = p.content_id JOIN manifest m ON m.id = g.manifest_id
			 WHERE `+oldPending+` AND NOT `+inRepository+`)`, pulp.KindSignature, sqldb.Micros(before))
	return err
}

// orphaned are the units that may be removed by name: u is one that is older than $2 and that nothing holds.
var orphaned = map[pulp.Kind][]string{
	pulp.KindSignature: {
		`DELETE FROM signature WHERE id IN (SELECT u.id FROM signature u WHERE u.id = $1 AND u.created < $2 AND ` + unreferenced + `)`,
	},
	pulp.KindTag: {
		`DELETE FROM tag WHERE id IN (SELECT u.id FROM tag u WHERE u.id = $1 AND u.created < $2 AND ` + unreferenced + `)`,
	},
	// Tags and signatures that nothing holds go with their manifest: it could not go without them.
	pulp.KindManifest: {
		`DELETE FROM signature WHERE id IN (SELECT u.id FROM signature u WHERE u.manifest_id = $1 AND u.created < $2 AND ` + unreferenced + ofLoose + `)`,
		`DELETE FROM tag WHERE id IN (SELECT u.id FROM tag u WHERE u.manifest_id = $1 AND u.created < $2 AND ` + unreferenced + ofLoose + `)`,
		`DELETE FROM manifest WHERE id IN (SELECT u.id FROM manifest u WHERE u.id = $1 AND u.created < $2 AND ` + unreferenced + `
			AND NOT EXISTS (SELECT 1 FROM tag t WHERE t.manifest_id = u.id)
			AND NOT EXISTS (SELECT 1 FROM signature g WHERE g.manifest_id = u.id))`,
	},
	pulp.KindBlob: {
		`DELETE FROM blob WHERE id IN (SELECT u.id FROM blob u WHERE u.id = $1 AND (u.data IS NOT NULL OR u.absent) AND u.updated < $2 AND ` + unreferenced + `)`,
	},
}

// ofLoose is the condition that the manifest $1 is held by nothing but what may go with it.
const ofLoose = ` AND EXISTS (SELECT 1 FROM manifest m WHERE m.id = $1 AND m.created < $2 AND
	NOT EXISTS (SELECT 1 FROM repository_content c WHERE c.content_id = m.id) AND
	NOT EXISTS (SELECT 1 FROM unversioned_content x WHERE x.content_id = m.id))`

// SweepUnit removes one unit if it is an orphan from before a time, as SweepPendingManifests, SweepPending and SweepOrphans would; a blob whose bytes are in the
// storage registry is left to DoomBlob. It returns how many units went.
func (s *Store) SweepUnit(ctx context.Context, u record.Unit, before time.Time) (int64, error) {
	var n int64
	err := s.db.InTx(ctx, func(t *sqldb.Tx) error {
		n = 0
		if err := t.LockContent(); err != nil {
			return err
		}
		if err := forget(t, u, before); err != nil {
			return err
		}
		for _, query := range orphaned[u.Kind] {
			removed, err := t.Exec(query, u.ID, sqldb.Micros(before))
			if err != nil {
				return err
			}
			n += removed
		}
		return nil
	})
	return n, err
}

// forget forgets that a unit waits in repositories, where nothing there refers to it.
func forget(t *sqldb.Tx, u record.Unit, before time.Time) error {
	switch u.Kind {
	case pulp.KindManifest:
		if _, err := forgetManifests(t, before, ` AND p.content_id = $4`, u.ID); err != nil {
			return err
		}
		return forgetSignatures(t, before)
	case pulp.KindBlob:
		_, err := t.Exec(`
			DELETE FROM unversioned_content WHERE `+rowIn+` (
				SELECT `+rowOf+` FROM unversioned_content p
				 WHERE p.reason = 'pending' AND p.kind = $1 AND p.content_id = $2 AND p.touched < $4 AND NOT `+named+`)`, pulp.KindBlob, u.ID, pulp.KindManifest, sqldb.Micros(before))
		return err
	case pulp.KindTag, pulp.KindSignature: // tags wait nowhere, and signatures with their manifest alone
		return nil
	}
	return fmt.Errorf("forget %s: no such kind of unit", u.Kind)
}

// DoomBlob is DoomBlobs of one blob.
func (s *Store) DoomBlob(ctx context.Context, id string, before time.Time) ([]DoomedBlob, error) {
	var doomed []DoomedBlob
	err := s.db.InTx(ctx, func(t *sqldb.Tx) error {
		if err := t.LockContent(); err != nil {
			return err
		}
		var err error
		doomed, err = sqldb.Collect(t.Ctx, t, scanDoomed, `UPDATE blob SET deleting = TRUE WHERE id IN (
				SELECT u.id FROM blob u WHERE u.id = $1 AND u.data IS NULL AND NOT u.absent AND (u.deleting OR u.updated < $2 AND `+unreferenced+`))
			RETURNING id, digest, location`, id, sqldb.Micros(before))
		return err
	})
	return doomed, err
}

func scanDoomed(row sqldb.Scanner) (DoomedBlob, error) {
	var b DoomedBlob
	err := row.Scan(&b.ID, &b.Digest, &b.Location)
	return b, err
}
