package store

import (
	"context"
	"math"
	"time"

	"github.com/countersign/countersign/internal/pulp"
)

// KeepOutbox makes every later change of a tag note the tag in the outbox, to be written through to the upstream. It is called before the
// store is used, when there is an upstream.
func (s *Store) KeepOutbox() { s.outbox = true }

// noted is what a change of a tag here does to a row that is there.
const noted = `dirty = TRUE, attempts = 0, not_before = 0, serial = upstream_tag.serial + 1`

// noteTag marks a tag to be written through.
func (c *change) noteTag(name string) error {
	if !c.tx.outbox {
		return nil
	}
	_, err := c.tx.exec(`
		INSERT INTO upstream_tag (repository_id, name) VALUES ($1, $2)
		ON CONFLICT (repository_id, name) DO UPDATE SET `+noted, c.repo.ID, name)
	return err
}

// OutboxTag is a tag that has changed here and not yet upstream.
type OutboxTag struct {
	RepositoryID string
	Repository   string // its name
	Name         string
	Digest       string // what it stands for now; empty: it is gone
	MediaType    string
	Written      string // what we last wrote there
	Serial       int64  // counts its changes here
	Attempts     int    // to write it that were begun since it changed
	Stale        string // what the upstream goes on showing though it is gone here; empty: nothing. The writer's, for WroteTags
}

// OutboxTags returns tags that are to be written through now, longest waiting first, at most limit.
func (s *Store) OutboxTags(ctx context.Context, limit int) ([]OutboxTag, error) {
	return collect(ctx, s.read, func(row scanner) (OutboxTag, error) {
		var o OutboxTag
		err := row.Scan(&o.RepositoryID, &o.Repository, &o.Name, &o.Digest, &o.MediaType, &o.Written, &o.Serial, &o.Attempts)
		return o, err
	}, `
		SELECT u.repository_id, r.name, u.name, COALESCE(m.digest, ''), COALESCE(m.media_type, ''), u.written_digest, u.serial, u.attempts
		  FROM upstream_tag u JOIN repository r ON r.id = u.repository_id
		  LEFT JOIN repository_content c ON c.repository_id = u.repository_id AND c.kind = $1 AND c.key = u.name AND c.version_removed IS NULL
		  LEFT JOIN tag t ON t.id = c.content_id
		  LEFT JOIN manifest m ON m.id = t.manifest_id
		 WHERE u.dirty AND u.not_before <= $2 ORDER BY u.not_before LIMIT $3`, pulp.KindTag, micros(s.now()), limit)
}

// WritingTags notes, before they are sent, what tags are about to be written as: should this process end, or give a write up, it may arrive late all the same, and is known
// then for ours.
func (s *Store) WritingTags(ctx context.Context, tags []OutboxTag) error {
	return s.inTxLazily(ctx, func(t *tx) error {
		for _, o := range tags {
			if _, err := t.exec(`UPDATE upstream_tag SET attempts = attempts + 1 WHERE repository_id = $1 AND name = $2`, o.RepositoryID, o.Name); err != nil {
				return err
			}
			if o.Digest == "" {
				continue
			}
			if err := t.putStale(o.RepositoryID, o.Name, o.Digest, t.now+lateness.Microseconds()); err != nil {
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
	return s.inTxLazily(ctx, func(t *tx) error {
		for _, o := range tags {
			if err := t.wroteTag(o); err != nil {
				return err
			}
		}
		return nil
	})
}

func (t *tx) wroteTag(o OutboxTag) error {
	// The row itself says whether the tag has changed: a push may hold it until just now, and what a subquery sees was read before.
	_, err := t.exec(`UPDATE upstream_tag SET written_digest = $3, attempts = 0, dirty = serial <> $4 WHERE repository_id = $1 AND name = $2`,
		o.RepositoryID, o.Name, o.Digest, o.Serial)
	if err != nil {
		return err
	}
	if o.Stale != "" {
		return t.putStale(o.RepositoryID, o.Name, o.Stale, forever)
	}
	arrived := ""
	if o.Attempts == 0 { // no other write of it is on its way
		arrived = o.Digest
	}
	return t.dropStale(o.RepositoryID, o.Name, arrived)
}

// PutOffTag notes that a tag could not be written through, to be tried again after a while. What was sent may still arrive.
func (s *Store) PutOffTag(ctx context.Context, o OutboxTag, wait time.Duration) error {
	return s.inTx(ctx, func(t *tx) error {
		_, err := t.exec(`UPDATE upstream_tag SET not_before = $3 WHERE repository_id = $1 AND name = $2 AND attempts > 0`, o.RepositoryID, o.Name, t.now+wait.Microseconds())
		return err
	})
}

const (
	// lateness is how long a write that was given up may still arrive.
	lateness = time.Hour
	forever  = math.MaxInt64
)

// dropStale forgets of a tag that the upstream has again what it may show of it no more: what it would not delete, what is over, and arrived, which is the very thing.
func (t *tx) dropStale(repositoryID, name, arrived string) error {
	_, err := t.exec(`DELETE FROM upstream_stale WHERE repository_id = $1 AND name = $2 AND (ends < $3 OR ends = $4 OR digest = $5)`,
		repositoryID, name, t.now, int64(forever), arrived)
	return err
}

// putStale notes what the upstream may show under a tag though it is ours no more.
func (t *tx) putStale(repositoryID, name, digest string, ends int64) error {
	_, err := t.exec(`
		INSERT INTO upstream_stale (repository_id, name, digest, ends) VALUES ($1, $2, $3, $4)
		ON CONFLICT (repository_id, name, digest) DO UPDATE SET ends = CASE WHEN upstream_stale.ends > excluded.ends THEN upstream_stale.ends ELSE excluded.ends END`, repositoryID, name, digest, ends)
	return err
}
