package content

import (
	"database/sql"
	"errors"
	"fmt"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// Retain drops the versions that a repository need not keep: all except its newest, as many as RetainRepoVersions
// says, and those that a distribution serves (compatibility.md#retention).
func (t *Tx) Retain(r pulp.Repository) error {
	if r.RetainRepoVersions == nil {
		return nil
	}
	var oldest int64
	err := t.Row(`SELECT number FROM repository_version WHERE repository_id = $1 ORDER BY number DESC LIMIT 1 OFFSET $2`,
		r.ID, *r.RetainRepoVersions-1).Scan(&oldest)
	if errors.Is(err, sql.ErrNoRows) {
		return nil // there are fewer
	}
	if err != nil {
		return err
	}
	kept, err := sqldb.Collect(t.Ctx, t, sqldb.ScanInt, `
		SELECT number FROM repository_version v WHERE v.repository_id = $1 AND (v.number = $2 OR v.number < $2 AND EXISTS (
			SELECT 1 FROM distribution d WHERE d.repository_version_id = v.id)) ORDER BY number`, r.ID, oldest)
	if err != nil {
		return err
	}
	p := int64(-1)
	for _, q := range kept {
		if err := t.dropBetween(r.ID, p, q); err != nil {
			return err
		}
		p = q
	}
	return nil
}

// dropBetween drops the versions between two retained versions p and q, and makes their changes part of q. p is -1 if
// no older version is retained. The cost depends on the number of changed units, not on the size of q.
func (t *Tx) dropBetween(repositoryID string, p, q int64) error {
	dropped, err := t.Exec(`DELETE FROM repository_version WHERE repository_id = $1 AND number > $2 AND number < $3`, repositoryID, p, q)
	if err != nil || dropped == 0 {
		return err
	}
	// No version holds the units that were added and removed in between.
	if err := t.recordRemoved(repositoryID, `c.version_removed > $3 AND c.version_removed <= $4 AND c.version_added > $3`, p, q); err != nil {
		return err
	}
	if _, err := t.Exec(`
		DELETE FROM repository_content WHERE repository_id = $1 AND version_removed > $2 AND version_removed <= $3 AND version_added > $2`,
		repositoryID, p, q); err != nil {
		return err
	}
	if p < 0 { // q is the oldest now: it brought all that it holds
		_, err := t.Exec(`
			UPDATE repository_version SET
			       blobs_added = blobs_present, manifests_added = manifests_present, signatures_added = signatures_present, tags_added = tags_present,
			       blobs_removed = 0, manifests_removed = 0, signatures_removed = 0, tags_removed = 0, updated = $3
			 WHERE repository_id = $1 AND number = $2`, repositoryID, q, t.Now)
		return err
	}
	if err := t.joinReturned(repositoryID, p, q); err != nil {
		return err
	}
	return t.recount(repositoryID, q)
}

// joinReturned merges the two rows of units that were removed and added again between p and q, which are adjacent
// versions now.
func (t *Tx) joinReturned(repositoryID string, p, q int64) error {
	type row struct {
		kind    pulp.Kind
		key     string
		gone    int64 // version_removed of the older row
		back    int64 // version_added of the younger
		removed sql.NullInt64
	}
	returned, err := sqldb.Collect(t.Ctx, t, func(s sqldb.Scanner) (row, error) {
		var r row
		err := s.Scan(&r.kind, &r.key, &r.gone, &r.back, &r.removed)
		return r, err
	}, `
		SELECT c.kind, c.key, c.version_removed, b.version_added, b.version_removed
		  FROM repository_content c JOIN repository_content b
		    ON b.repository_id = c.repository_id AND b.kind = c.kind AND b.key = c.key AND b.content_id = c.content_id
		   AND b.version_added >= c.version_removed AND b.version_added <= $3
		 WHERE c.repository_id = $1 AND c.version_added <= $2 AND c.version_removed > $2 AND c.version_removed <= $3`, repositoryID, p, q)
	if err != nil {
		return err
	}
	for _, r := range returned {
		if _, err := t.Exec(`DELETE FROM repository_content WHERE repository_id = $1 AND kind = $2 AND key = $3 AND version_added = $4`,
			repositoryID, r.kind, r.key, r.back); err != nil {
			return err
		}
		if _, err := t.Exec(`
			UPDATE repository_content SET version_removed = $5 WHERE repository_id = $1 AND kind = $2 AND key = $3 AND version_removed = $4`,
			repositoryID, r.kind, r.key, r.gone, r.removed); err != nil {
			return err
		}
	}
	return nil
}

// countColumns are the prefixes of the columns of repository_version with the counts of a kind.
var countColumns = map[pulp.Kind]string{
	pulp.KindBlob: "blobs", pulp.KindManifest: "manifests", pulp.KindSignature: "signatures", pulp.KindTag: "tags",
}

// recount updates the numbers of units that a version added and removed.
func (t *Tx) recount(repositoryID string, number int64) error {
	for _, kind := range pulp.Kinds {
		_, err := t.Exec(fmt.Sprintf(`
			UPDATE repository_version SET updated = $4,
			       %[1]s_added = (SELECT COUNT(*) FROM repository_content c WHERE c.repository_id = $1 AND c.kind = $3 AND `+record.AddedIn("$1", "$2")+`),
			       %[1]s_removed = (SELECT COUNT(*) FROM repository_content c WHERE c.repository_id = $1 AND c.kind = $3 AND `+record.RemovedIn("$1", "$2")+`)
			 WHERE repository_id = $1 AND number = $2`, countColumns[kind]), repositoryID, number, kind, t.Now)
		if err != nil {
			return err
		}
	}
	return nil
}

// dropLatest drops the versions after p, which becomes the latest again.
func (t *Tx) dropLatest(repositoryID string, p int64) error {
	if err := t.RecordTags(`
		SELECT DISTINCT repository_id, key FROM repository_content
		 WHERE repository_id = $1 AND kind = $2 AND (version_added > $3 OR version_removed > $3)`, repositoryID, pulp.KindTag, p); err != nil {
		return err
	}
	if err := t.recordRemoved(repositoryID, `c.version_added > $3`, p); err != nil {
		return err
	}
	for _, query := range []string{
		`DELETE FROM repository_version WHERE repository_id = $1 AND number > $2`,
		`DELETE FROM repository_content WHERE repository_id = $1 AND version_added > $2`,
		`UPDATE repository_content SET version_removed = NULL WHERE repository_id = $1 AND version_removed > $2`,
	} {
		if _, err := t.Exec(query, repositoryID, p); err != nil {
			return err
		}
	}
	_, err := t.Exec(`UPDATE repository SET latest_version = $2, updated = $3 WHERE id = $1`, repositoryID, p, t.Now)
	return err
}
