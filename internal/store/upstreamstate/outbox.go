package upstreamstate

import (
	"context"
	"database/sql"
	"math"
	"time"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// OutboxTag is a tag that has changed here and must be written to the upstream.
type OutboxTag struct {
	RepositoryID string
	Repository   string // its name
	Name         string
	Digest       string // in the latest version; empty: the tag was deleted
	Serial       int64  // number of changes of the tag here
	Attempts     int    // rejected writes since the last change
	First        bool   // no earlier write of this digest may still arrive; set by MarkWriting
	// Undeleted is the digest that the upstream still has because it does not support deletion; empty: none. The writer sets
	// it for MarkWritten.
	Undeleted string
}

// OutboxTags returns at most limit tags that are due to be written to the upstream. Those that have been due longest come
// first.
func (s *Store) OutboxTags(ctx context.Context, limit int) ([]OutboxTag, error) {
	return sqldb.Collect(ctx, s.db.Read(), scanOutboxTag, `
		SELECT u.repository_id, r.name, u.name, COALESCE(m.digest, ''), u.serial, u.attempts
		  FROM upstream_tag u JOIN repository r ON r.id = u.repository_id
		  LEFT JOIN repository_content c ON c.repository_id = u.repository_id AND c.kind = $1 AND c.key = u.name AND c.version_removed IS NULL
		  LEFT JOIN tag t ON t.id = c.content_id
		  LEFT JOIN manifest m ON m.id = t.manifest_id
		 WHERE u.dirty AND u.not_before <= $2 ORDER BY u.not_before LIMIT $3`, pulp.KindTag, sqldb.Micros(s.db.Now()), limit)
}

// OutboxState returns the number of tags in the outbox, and the time since which the first of them waits; zero if none waits.
func (s *Store) OutboxState(ctx context.Context) (tags int64, oldest time.Time, err error) {
	var since sql.NullInt64 // rows of earlier versions have no time
	err = s.db.Read().QueryRowContext(ctx, `SELECT COUNT(*), MIN(CASE WHEN since > 0 THEN since END) FROM upstream_tag WHERE dirty`).
		Scan(&tags, &since)
	if since.Valid {
		oldest = sqldb.FromMicros(since.Int64)
	}
	return tags, oldest, err
}

func scanOutboxTag(row sqldb.Scanner) (OutboxTag, error) {
	var o OutboxTag
	err := row.Scan(&o.RepositoryID, &o.Repository, &o.Name, &o.Digest, &o.Serial, &o.Attempts)
	return o, err
}

// MarkWriting records that tags are about to be written to the upstream or deleted there. It must be called before the
// requests are sent: if the process ends or gives up a request, the write may still arrive, and UpstreamTag.Late then has
// its digest. It sets First of the tags.
func (s *Store) MarkWriting(ctx context.Context, tags []OutboxTag) error {
	first, err := sqldb.InTxNoSync(ctx, s.db, func(t *sqldb.Tx) ([]bool, error) {
		first := make([]bool, len(tags))
		for i, o := range tags {
			var err error
			if first[i], err = putStale(t, o.RepositoryID, o.Name, o.Digest, t.Now+lateness.Microseconds()); err != nil {
				return nil, err
			}
		}
		return first, nil
	})
	for i := range first {
		tags[i].First = first[i]
	}
	return err
}

// MarkWritten records that the upstream has stored or deleted tags, and removes them from the outbox. A tag that has changed
// since it was read from the outbox remains in it. After a power failure the tags may be in the outbox again, and are
// written again.
func (s *Store) MarkWritten(ctx context.Context, tags []OutboxTag) error {
	if len(tags) == 0 {
		return nil
	}
	return s.db.InTxNoSync(ctx, func(t *sqldb.Tx) error {
		for _, o := range tags {
			if err := markWritten(t, o); err != nil {
				return err
			}
		}
		return nil
	})
}

// markWritten is MarkWritten for one tag. It changes upstream_stale first, which locks the repository's row: pushes lock
// that row before the row of upstream_tag, and the opposite order could deadlock.
func markWritten(t *sqldb.Tx, o OutboxTag) error {
	if err := dropStale(t, o.RepositoryID, o.Name); err != nil {
		return err
	}
	if o.First {
		_, err := t.Exec(`DELETE FROM upstream_stale WHERE repository_id = $1 AND name = $2 AND digest = $3`, o.RepositoryID, o.Name, o.Digest)
		if err != nil {
			return err
		}
	}
	if o.Undeleted != "" {
		if _, err := putStale(t, o.RepositoryID, o.Name, o.Undeleted, forever); err != nil {
			return err
		}
	}
	// The row is compared, not a subquery: a subquery would not see the change of a push that commits during this statement.
	_, err := t.Exec(`UPDATE upstream_tag SET attempts = 0, dirty = dirty AND serial <> $3 WHERE repository_id = $1 AND name = $2`,
		o.RepositoryID, o.Name, o.Serial)
	return err
}

// DelayTag records that the upstream rejected a tag. The tag is due again after wait. The write may still arrive.
func (s *Store) DelayTag(ctx context.Context, o OutboxTag, wait time.Duration) error {
	return s.delay(ctx, o, wait, 1)
}

// RequeueTag makes a tag due behind all that are due now. It is for outages of the upstream and counts no rejected write.
func (s *Store) RequeueTag(ctx context.Context, o OutboxTag) error { return s.delay(ctx, o, 0, 0) }

// delay makes a tag due after wait and adds to its rejected writes. It does nothing if the tag has changed since it was
// read.
func (s *Store) delay(ctx context.Context, o OutboxTag, wait time.Duration, rejected int) error {
	return s.db.InTxNoSync(ctx, func(t *sqldb.Tx) error {
		_, err := t.Exec(`
			UPDATE upstream_tag SET not_before = $3, attempts = attempts + $4
			 WHERE repository_id = $1 AND name = $2 AND serial = $5`,
			o.RepositoryID, o.Name, t.Now+wait.Microseconds(), rejected, o.Serial)
		return err
	})
}

const (
	// lateness is the time within which a write that was given up may still arrive at the upstream.
	lateness = time.Hour
	// forever is the end of entries of upstream_stale whose digest the upstream did not delete.
	forever = math.MaxInt64
)

// dropStale deletes the outdated entries of a tag that was just written to or read from the upstream: those that have ended,
// and those of digests that the upstream did not delete.
func dropStale(t *sqldb.Tx, repositoryID, name string) error {
	_, err := t.Exec(`DELETE FROM upstream_stale WHERE repository_id = $1 AND name = $2 AND (ends < $3 OR ends = $4)`,
		repositoryID, name, t.Now, int64(forever))
	return err
}

// putStale records that until a time the upstream may have a digest for a tag because of a write by this registry; an empty
// digest stands for a missing tag. It reports whether no late write of the digest was recorded.
func putStale(t *sqldb.Tx, repositoryID, name, digest string, ends int64) (fresh bool, err error) {
	n, err := t.Exec(`
		INSERT INTO upstream_stale (repository_id, name, digest, ends)
		SELECT id, CAST($2 AS TEXT), CAST($3 AS TEXT), CAST($4 AS BIGINT) FROM repository WHERE id = $1
		ON CONFLICT (repository_id, name, digest) DO UPDATE SET ends = excluded.ends
		 WHERE upstream_stale.ends < $5 OR upstream_stale.ends = $6`,
		repositoryID, name, digest, ends, t.Now, int64(forever))
	if err != nil || n > 0 {
		return true, err
	}
	_, err = t.Exec(`UPDATE upstream_stale SET ends = $4 WHERE repository_id = $1 AND name = $2 AND digest = $3`, repositoryID, name, digest, ends)
	return false, err
}
