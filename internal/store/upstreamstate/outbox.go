package upstreamstate

import (
	"context"
	"math"
	"time"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// OutboxTag is a tag that has changed here and not yet upstream.
type OutboxTag struct {
	RepositoryID string
	Repository   string // its name
	Name         string
	Digest       string // what it stands for now; empty: it is gone
	Serial       int64  // counts its changes here
	Attempts     int    // to write it that the upstream refused since it changed
	First        bool   // no other write of the same may be on its way. WritingTags says so
	Undeleted    string // what the upstream goes on showing though it is gone here; empty: nothing. The writer's, for WroteTags
}

// OutboxTags returns tags that are to be written through now, longest waiting first, at most limit.
func (s *Store) OutboxTags(ctx context.Context, limit int) ([]OutboxTag, error) {
	return sqldb.Collect(ctx, s.db.Read(), func(row sqldb.Scanner) (OutboxTag, error) {
		var o OutboxTag
		err := row.Scan(&o.RepositoryID, &o.Repository, &o.Name, &o.Digest, &o.Serial, &o.Attempts)
		return o, err
	}, `
		SELECT u.repository_id, r.name, u.name, COALESCE(m.digest, ''), u.serial, u.attempts
		  FROM upstream_tag u JOIN repository r ON r.id = u.repository_id
		  LEFT JOIN repository_content c ON c.repository_id = u.repository_id AND c.kind = $1 AND c.key = u.name AND c.version_removed IS NULL
		  LEFT JOIN tag t ON t.id = c.content_id
		  LEFT JOIN manifest m ON m.id = t.manifest_id
		 WHERE u.dirty AND u.not_before <= $2 ORDER BY u.not_before LIMIT $3`, pulp.KindTag, sqldb.Micros(s.db.Now()), limit)
}

// WritingTags notes, before they are sent, what tags are about to be written as, or that they are about to be deleted: should this process end, or give a write up, it may
// arrive late all the same, and is known then for ours.
func (s *Store) WritingTags(ctx context.Context, tags []OutboxTag) error {
	return s.content.InTxNoSync(ctx, func(t *content.Tx) (err error) {
		for i := range tags {
			o := &tags[i]
			if o.First, err = putStale(t, o.RepositoryID, o.Name, o.Digest, t.Now+lateness.Microseconds()); err != nil {
				return err
			}
		}
		return nil
	})
}

// WroteTags notes what tags were written as upstream. One that has changed again since stays in the outbox. After a power cut they may be in the outbox still, and are
// written once more.
func (s *Store) WroteTags(ctx context.Context, tags []OutboxTag) error {
	if len(tags) == 0 {
		return nil
	}
	return s.content.InTxNoSync(ctx, func(t *content.Tx) error {
		for _, o := range tags {
			if err := wroteTag(t, o); err != nil {
				return err
			}
		}
		return nil
	})
}

func wroteTag(t *content.Tx, o OutboxTag) error {
	// First what refers to the repository, whose row pushes hold before their tags': else each could wait for the other.
	if err := dropStale(t, o.RepositoryID, o.Name); err != nil {
		return err
	}
	if o.First {
		if _, err := t.Exec(`DELETE FROM upstream_stale WHERE repository_id = $1 AND name = $2 AND digest = $3`, o.RepositoryID, o.Name, o.Digest); err != nil {
			return err
		}
	}
	if o.Undeleted != "" {
		if _, err := putStale(t, o.RepositoryID, o.Name, o.Undeleted, forever); err != nil {
			return err
		}
	}
	// The row itself says whether the tag has changed: a push may hold it until just now, and what a subquery sees was read before.
	_, err := t.Exec(`UPDATE upstream_tag SET attempts = 0, dirty = dirty AND serial <> $3 WHERE repository_id = $1 AND name = $2`, o.RepositoryID, o.Name, o.Serial)
	return err
}

// PutOffTag notes that the upstream did not take a tag, to be tried again after a while. What was sent may still arrive.
func (s *Store) DelayTag(ctx context.Context, o OutboxTag, wait time.Duration) error {
	return s.putOff(ctx, o, wait, 1)
}

// LastInLine has a tag that was tried in vain wait behind those that were not: the upstream did not answer to anything.
func (s *Store) RequeueTag(ctx context.Context, o OutboxTag) error { return s.putOff(ctx, o, 0, 0) }

func (s *Store) putOff(ctx context.Context, o OutboxTag, wait time.Duration, refusals int) error {
	return s.content.InTxNoSync(ctx, func(t *content.Tx) error {
		_, err := t.Exec(`UPDATE upstream_tag SET not_before = $3, attempts = attempts + $4 WHERE repository_id = $1 AND name = $2 AND serial = $5`,
			o.RepositoryID, o.Name, t.Now+wait.Microseconds(), refusals, o.Serial)
		return err
	})
}

const (
	// lateness is how long a write that was given up may still arrive.
	lateness = time.Hour
	forever  = math.MaxInt64
)

// dropStale forgets of a tag that was just written or read upstream what it may be shown as no more: what the upstream would not delete, and what is over.
func dropStale(t *content.Tx, repositoryID, name string) error {
	_, err := t.Exec(`DELETE FROM upstream_stale WHERE repository_id = $1 AND name = $2 AND (ends < $3 OR ends = $4)`, repositoryID, name, t.Now, int64(forever))
	return err
}

// putStale notes what the upstream may show under a tag though it is ours no more; an empty digest: nothing. It says whether that is new, and no late write of the same was
// known.
func putStale(t *content.Tx, repositoryID, name, digest string, ends int64) (fresh bool, err error) {
	n, err := t.Exec(`
		INSERT INTO upstream_stale (repository_id, name, digest, ends)
		SELECT id, CAST($2 AS TEXT), CAST($3 AS TEXT), CAST($4 AS BIGINT) FROM repository WHERE id = $1
		ON CONFLICT (repository_id, name, digest) DO UPDATE SET ends = excluded.ends WHERE upstream_stale.ends < $5 OR upstream_stale.ends = $6`,
		repositoryID, name, digest, ends, t.Now, int64(forever))
	if err != nil || n > 0 {
		return true, err
	}
	_, err = t.Exec(`UPDATE upstream_stale SET ends = $4 WHERE repository_id = $1 AND name = $2 AND digest = $3`, repositoryID, name, digest, ends)
	return false, err
}
