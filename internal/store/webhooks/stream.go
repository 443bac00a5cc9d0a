package webhooks

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/countersign/countersign/internal/events"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// Key names a stream.
type Key struct {
	WebhookID string
	Name      string // the id of a repository, or one of the constants of package eventlog
}

// Claim is the right of a process to deliver the events of a stream.
type Claim struct {
	Key
	fence  int64
	serial int64 // as read by the last call of Waiting
}

// Due returns the stream of each active webhook that has been due longest, except of the webhooks in busy. The first one has been
// due longest of all.
func (s *Store) Due(ctx context.Context, busy []string) ([]Key, error) {
	return sqldb.Collect(ctx, s.db.Read(), func(row sqldb.Scanner) (k Key, err error) {
		err = row.Scan(&k.WebhookID, &k.Name)
		return k, err
	}, `SELECT x.webhook_id, x.stream
		  FROM (SELECT w.id, (SELECT s.stream FROM webhook_stream s WHERE s.webhook_id = w.id AND s.due <= $1 ORDER BY s.due LIMIT 1) AS stream
		          FROM webhook w WHERE w.active AND w.id NOT IN (SELECT j.value FROM json_each($2) j)) f
		  JOIN webhook_stream x ON x.webhook_id = f.id AND x.stream = f.stream
		 ORDER BY x.due, x.webhook_id`,
		sqldb.Micros(s.db.Now()), sqldb.ToJSON(append([]string{}, busy...)))
}

// Claim claims a stream for a process. It returns nil if the stream is not due any more.
func (s *Store) Claim(ctx context.Context, k Key, holder string, lease time.Duration) (*Claim, error) {
	return sqldb.InTxNoSync(ctx, s.db, func(t *sqldb.Tx) (*Claim, error) {
		c := &Claim{Key: k}
		err := t.Row(`
			UPDATE webhook_stream SET fence = fence + 1, holder = $3, due = $4 WHERE webhook_id = $1 AND stream = $2 AND due <= $5
			RETURNING fence`, k.WebhookID, k.Name, holder, t.Now+lease.Microseconds(), t.Now).Scan(&c.fence)
		if errors.Is(err, sql.ErrNoRows) {
			return nil, nil
		}
		return c, err
	})
}

// ReleaseAll ends all claims. A process calls it when it has become the only owner of the database.
func (s *Store) ReleaseAll(ctx context.Context) error {
	return s.db.InTxNoSync(ctx, func(t *sqldb.Tx) error {
		_, err := t.Exec(`UPDATE webhook_stream SET holder = '', due = $1 WHERE holder <> ''`, t.Now)
		return err
	})
}

// Lost are dropped events of a stream that the receiver does not know of yet.
type Lost struct {
	ID          string // of the event that reports them
	Number      int64
	First, Last time.Time
	Seq         int64 // of the last of them
}

// Queue is the content of a claimed stream.
type Queue struct {
	Lost       Lost // Number is 0 if there are none
	Failures   int  // since the last success
	Deliveries []events.Delivery
}

// Waiting returns the first waiting deliveries of a claimed stream, at most limit. The error is ErrFenced if the claim has ended.
func (s *Store) Waiting(ctx context.Context, c *Claim, limit int) (q Queue, err error) {
	var first, last sql.NullInt64
	// The serial is read before the deliveries: Close compares it.
	err = s.db.Read().QueryRowContext(ctx, `
		SELECT serial, failures, lost, lost_id, lost_first, lost_last, lost_seq
		  FROM webhook_stream WHERE webhook_id = $1 AND stream = $2 AND fence = $3`, c.WebhookID, c.Name, c.fence).
		Scan(&c.serial, &q.Failures, &q.Lost.Number, &q.Lost.ID, &first, &last, &q.Lost.Seq)
	if errors.Is(err, sql.ErrNoRows) {
		return q, ErrFenced
	} else if err != nil {
		return q, err
	}
	q.Lost.First, q.Lost.Last = sqldb.FromMicros(first.Int64), sqldb.FromMicros(last.Int64)
	q.Deliveries, err = sqldb.Collect(ctx, s.db.Read(), record.ScanDelivery, `
		SELECT `+record.DeliveryColumns+record.DeliverySource+`
		 WHERE d.webhook_id = $1 AND d.stream = $2 AND d.state = 'waiting' ORDER BY d.seq LIMIT $3`, c.WebhookID, c.Name, limit)
	return q, err
}

// set updates columns of a claimed stream. The error is ErrFenced if the claim has ended.
func set(t *sqldb.Tx, c *Claim, columns string, args ...any) error {
	n, err := t.Exec(`UPDATE webhook_stream SET `+columns+` WHERE webhook_id = $1 AND stream = $2 AND fence = $3`,
		append([]any{c.WebhookID, c.Name, c.fence}, args...)...)
	if err == nil && n == 0 {
		err = ErrFenced
	}
	return err
}

// Extend extends the lease of a claim. The error is ErrFenced if the claim has ended.
func (s *Store) Extend(ctx context.Context, c *Claim, lease time.Duration) error {
	return s.db.InTxNoSync(ctx, func(t *sqldb.Tx) error { return set(t, c, `due = $4`, t.Now+lease.Microseconds()) })
}

// Release ends a claim. The stream is due again after a wait. The error is ErrFenced if the claim has ended.
func (s *Store) Release(ctx context.Context, c *Claim, wait time.Duration) error {
	return s.db.InTxNoSync(ctx, func(t *sqldb.Tx) error { return set(t, c, `holder = '', due = $4`, t.Now+wait.Microseconds()) })
}

// Close ends a claim and deletes the stream, whose last call of Waiting returned nothing. It reports false, and does nothing, if
// deliveries were added since.
func (s *Store) Close(ctx context.Context, c *Claim) (closed bool, err error) {
	return sqldb.InTxNoSync(ctx, s.db, func(t *sqldb.Tx) (bool, error) {
		// The row is compared, not a subquery: a subquery would not see the deliveries of a push that commits during this statement.
		n, err := t.Exec(`DELETE FROM webhook_stream WHERE webhook_id = $1 AND stream = $2 AND fence = $3 AND serial = $4`,
			c.WebhookID, c.Name, c.fence, c.serial)
		return n > 0, err
	})
}

// Delivered records that the receiver has accepted a delivery, and extends the lease. With recovered, an earlier attempt had
// failed: all streams of the webhook are due at once. The error is ErrFenced if the claim has ended.
func (s *Store) Delivered(ctx context.Context, c *Claim, a events.Attempt, recovered bool, lease time.Duration) error {
	return s.db.InTxNoSync(ctx, func(t *sqldb.Tx) error {
		if err := set(t, c, `due = $4, failures = 0, failing_since = NULL`, t.Now+lease.Microseconds()); err != nil {
			return err
		}
		if err := attempted(t, a, events.Delivered); err != nil {
			return err
		}
		if recovered {
			return hasten(t, c.WebhookID)
		}
		return nil
	})
}

// Reported records that the receiver knows of lost events, and extends the lease. The error is ErrFenced if the claim has ended.
func (s *Store) Reported(ctx context.Context, c *Claim, l Lost, a events.Attempt, lease time.Duration) error {
	return s.db.InTxNoSync(ctx, func(t *sqldb.Tx) error {
		err := set(t, c, `due = $4, failures = 0, failing_since = NULL, lost = lost - $5`, t.Now+lease.Microseconds(), l.Number)
		if err != nil {
			return err
		}
		return attempted(t, a, events.Delivered)
	})
}

// Failed records a failed attempt and ends the claim. The stream is due again after a wait. The error is ErrFenced if the claim
// has ended.
func (s *Store) Failed(ctx context.Context, c *Claim, a events.Attempt, wait time.Duration) error {
	return s.db.InTxNoSync(ctx, func(t *sqldb.Tx) error {
		err := set(t, c, `holder = '', due = $4, failures = failures + 1, failing_since = COALESCE(failing_since, $5)`, t.Now+wait.Microseconds(), t.Now)
		if err != nil {
			return err
		}
		return attempted(t, a, events.Waiting)
	})
}

// GaveUp records the failure of a delivery that is attempted once. The error is ErrFenced if the claim has ended.
func (s *Store) GaveUp(ctx context.Context, c *Claim, a events.Attempt, lease time.Duration) error {
	return s.db.InTxNoSync(ctx, func(t *sqldb.Tx) error {
		if err := set(t, c, `due = $4`, t.Now+lease.Microseconds()); err != nil {
			return err
		}
		return attempted(t, a, events.Failed)
	})
}

// attempted records an attempt and the state of its delivery.
func attempted(t *sqldb.Tx, a events.Attempt, state events.State) error {
	status := sql.NullInt64{Int64: int64(a.Status), Valid: a.Status != 0}
	if _, err := t.Exec(`UPDATE webhook_delivery SET state = $2, attempts = attempts + 1, status = $3, error = $4, updated = $5 WHERE id = $1`,
		a.DeliveryID, state, status, a.Error, t.Now); err != nil {
		return err
	}
	_, err := t.Exec(`
		INSERT INTO webhook_attempt (id, webhook_id, delivery_id, repository_id, event_id, event_type, at, duration, status, error)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
		pulp.NewID(), a.WebhookID, a.DeliveryID, a.RepositoryID, a.EventID, a.EventType, sqldb.Micros(a.At), a.Duration.Microseconds(), status, a.Error)
	return err
}

// Refuse deletes deliveries, because the owner of the webhook may not view the repository, and forgets lost events. The error is
// ErrFenced if the claim has ended.
func (s *Store) Refuse(ctx context.Context, c *Claim, refused []events.Delivery) error {
	return s.db.InTxNoSync(ctx, func(t *sqldb.Tx) error {
		if err := set(t, c, `lost = 0, failures = 0, failing_since = NULL`); err != nil {
			return err
		}
		seqs := make([]int64, len(refused))
		for i, d := range refused {
			seqs[i] = d.Seq
		}
		return remove(t, seqs)
	})
}
