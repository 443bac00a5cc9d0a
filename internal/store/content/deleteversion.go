package content

import (
	"context"
	"database/sql"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/taskstore"
)

var (
	errOnlyVersion = fault.New(fault.Conflict,
		"[PLP0011] Cannot delete repository version. Repositories must have at least one repository version.")
	errServedVersion = fault.New(fault.Conflict, "The repository version cannot be deleted because it (or its publications) are currently "+
		"being used to distribute content. Please update the necessary distributions first.")
)

// DeleteVersion deletes a version of a repository and completes the task. The next version takes over its changes. If
// it was the latest, the version before it becomes the latest again and must satisfy the policy. The error is
// NotFound if there is no such version, and Conflict if a distribution is pinned to it or the repository has no
// other.
func (s *Store) DeleteVersion(ctx context.Context, claim *taskstore.Claim, repositoryID string, number int64) error {
	return s.InTx(ctx, func(t *Tx) error {
		c, err := t.Begin(repositoryID) // the lock waits for a push that makes the next version
		if err != nil {
			return err
		}
		v, err := record.FindVersion(t.Ctx, t, repositoryID, number)
		if err != nil {
			return err
		}
		var pinned bool
		var older, newer sql.NullInt64
		err = t.Row(`
			SELECT EXISTS (SELECT 1 FROM distribution WHERE repository_version_id = $1),
			       (SELECT MAX(number) FROM repository_version WHERE repository_id = $2 AND number < $3),
			       (SELECT MIN(number) FROM repository_version WHERE repository_id = $2 AND number > $3)`,
			v.ID, repositoryID, number).Scan(&pinned, &older, &newer)
		switch {
		case err != nil:
			return err
		case pinned:
			return errServedVersion
		case !older.Valid && !newer.Valid:
			return errOnlyVersion
		case newer.Valid:
			p := int64(-1)
			if older.Valid {
				p = older.Int64
			}
			err = t.dropBetween(repositoryID, p, newer.Int64)
		default:
			err = sqldb.Steps(
				func() error { return c.announceRevert(older.Int64) },
				func() error { return t.dropLatest(repositoryID, older.Int64) },
				func() error { return t.checkLatest(repositoryID) },
			)
		}
		if err != nil {
			return err
		}
		return taskstore.Complete(t.Tx, claim, taskstore.Outcome{Result: map[string]int64{"core.RepositoryVersion": 1}})
	})
}
