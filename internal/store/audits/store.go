// Package audits stores the rows of the audit log.
package audits

import (
	"context"
	"database/sql"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// Store is safe for concurrent use.
type Store struct{ db *sqldb.DB }

var _ audit.Rows = (*Store)(nil)

// New returns a store on a database.
func New(db *sqldb.DB) *Store { return &Store{db: db} }

// Add stores entries in one transaction that does not wait for the disk. It implements audit.Rows.
func (s *Store) Add(ctx context.Context, entries []audit.Entry) error {
	return s.db.InTxNoSync(ctx, func(t *sqldb.Tx) error {
		for _, e := range entries {
			_, err := t.Exec(`
				INSERT INTO audit_entry (id, at, actor, actor_id, actor_kind, identity, address, action, object, result, status, count,
					correlation, details)
				VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) ON CONFLICT (id) DO NOTHING`,
				e.ID, e.At.UnixMicro(), e.Actor.Name, nullIfZero(e.Actor.ID), string(e.Actor.Kind), e.Actor.Identity, e.Actor.Address,
				e.Action, e.Object, string(e.Result), nullIfZero(int64(e.Status)), e.Count, e.Correlation, string(e.Details))
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func nullIfZero(n int64) sql.NullInt64 { return sql.NullInt64{Int64: n, Valid: n != 0} }

// Purge deletes the oldest entries from before a time, at most limit, and returns their number.
func (s *Store) Purge(ctx context.Context, before time.Time, limit int) (int64, error) {
	return sqldb.InTxNoSync(ctx, s.db, func(t *sqldb.Tx) (int64, error) {
		return t.Exec(`DELETE FROM audit_entry WHERE id IN (SELECT id FROM audit_entry WHERE at < $1 ORDER BY at LIMIT $2)`,
			before.UnixMicro(), limit)
	})
}
