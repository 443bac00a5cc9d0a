package webhooks

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/sqldb"
)

const (
	// batch is the number of deliveries that one transaction deletes, so that no push waits long.
	batch = 500
	// keptAttempts is the number of attempts of each webhook that are kept.
	keptAttempts = 1000
	// deletedFor is the time after the deletion of a webhook for which transactions that began before may add deliveries.
	deletedFor = time.Hour
)

// Bounds limit the deliveries that wait for one webhook.
type Bounds struct {
	Backlog int64     // the largest number
	Oldest  time.Time // older ones have failed
}

// Trim drops the oldest waiting deliveries of webhooks that have too many, and gives up those that are too old. The next event
// of their streams tells the receiver. It returns the numbers by webhook. It also deletes old attempts.
func (s *Store) Trim(ctx context.Context, bounds Bounds) (map[string]int64, error) {
	type waiting struct {
		webhook       string
		number, first int64
	}
	all, err := sqldb.Collect(ctx, s.db.Read(), func(row sqldb.Scanner) (w waiting, err error) {
		err = row.Scan(&w.webhook, &w.number, &w.first)
		return w, err
	}, `SELECT d.webhook_id, COUNT(*), MIN(d.seq) FROM webhook_delivery d WHERE d.state = 'waiting' GROUP BY d.webhook_id`)
	if err != nil {
		return nil, err
	}
	trimmed := map[string]int64{}
	for _, w := range all {
		for tooMany := w.number - bounds.Backlog; ; {
			n, err := s.drop(ctx, w.webhook, min(max(tooMany, 0), batch), bounds.Oldest)
			if err != nil {
				return trimmed, err
			}
			if n == 0 {
				break
			}
			tooMany -= n
			trimmed[w.webhook] += n
		}
	}
	return trimmed, s.dropAttempts(ctx)
}

// dropped is a delivery that is not attempted any more.
type dropped struct {
	seq, at int64
	stream  string
	old     bool // it stays visible
}

// drop drops the oldest deliveries of a webhook, a number of them and those created before oldest, and returns the number of
// dropped ones. It drops a batch at most.
func (s *Store) drop(ctx context.Context, webhook string, number int64, oldest time.Time) (int64, error) {
	return sqldb.InTx(ctx, s.db, func(t *sqldb.Tx) (int64, error) {
		if err := t.LockNamed("countersign:webhooks"); err != nil {
			return 0, err
		}
		found, err := sqldb.Collect(t.Ctx, t, func(row sqldb.Scanner) (d dropped, err error) {
			err = row.Scan(&d.seq, &d.stream, &d.at, &d.old)
			return d, err
		}, `SELECT d.seq, d.stream, e.at, d.created < $2 FROM webhook_delivery d JOIN webhook_event e ON e.seq = d.event_seq
			 WHERE d.webhook_id = $1 AND d.state = 'waiting' AND NOT d.once ORDER BY d.seq LIMIT $3`, webhook, sqldb.Micros(oldest), batch)
		if err != nil {
			return 0, err
		}
		streams := map[string][]dropped{}
		for i, d := range found {
			if d.old || int64(i) < number {
				streams[d.stream] = append(streams[d.stream], d)
			}
		}
		var n int64
		for _, stream := range slices.Sorted(maps.Keys(streams)) {
			k, err := lose(t, Key{webhook, stream}, streams[stream])
			if err != nil {
				return 0, err
			}
			n += k
		}
		return n, nil
	})
}

// lose drops deliveries of one stream, unless they have been made in the meantime, and notes that they are lost.
func lose(t *sqldb.Tx, k Key, all []dropped) (int64, error) {
	// The stream is locked first, as by processes that deliver.
	if _, err := t.Exec(`UPDATE webhook_stream SET serial = serial + 1 WHERE webhook_id = $1 AND stream = $2`, k.WebhookID, k.Name); err != nil {
		return 0, err
	}
	var lost []dropped
	var gone []int64
	for _, d := range all {
		n, err := t.Exec(`UPDATE webhook_delivery SET state = 'failed', error = $2, updated = $3 WHERE seq = $1 AND state = 'waiting'`,
			d.seq, gaveUp, t.Now)
		if err != nil {
			return 0, err
		}
		if n > 0 {
			lost = append(lost, d)
		}
		if n > 0 && !d.old {
			gone = append(gone, d.seq)
		}
	}
	if len(lost) == 0 {
		return 0, nil
	}
	_, err := t.Exec(`
		UPDATE webhook_stream SET lost_first = CASE WHEN lost = 0 THEN $4 ELSE lost_first END, lost = lost + $3, lost_last = $5,
		       lost_seq = (SELECT d.event_seq FROM webhook_delivery d WHERE d.seq = $6), lost_id = $7
		 WHERE webhook_id = $1 AND stream = $2`,
		k.WebhookID, k.Name, len(lost), lost[0].at, lost[len(lost)-1].at, lost[len(lost)-1].seq, pulp.NewID())
	if err == nil {
		err = remove(t, gone)
	}
	return int64(len(lost)), err
}

// gaveUp is the error of deliveries that are too old.
const gaveUp = "The event was not delivered in time (webhooks.retry_for)."

// remove deletes deliveries, and their events that have no other.
func remove(t *sqldb.Tx, seqs []int64) error {
	if len(seqs) == 0 {
		return nil
	}
	texts := make([]string, len(seqs))
	for i, seq := range seqs {
		texts[i] = strconv.FormatInt(seq, 10)
	}
	list := sqldb.ToJSON(texts)
	const chosen = ` IN (SELECT CAST(j.value AS BIGINT) FROM json_each($1) j)`
	of, err := sqldb.Collect(t.Ctx, t, sqldb.ScanString, `DELETE FROM webhook_delivery WHERE seq`+chosen+` RETURNING CAST(event_seq AS TEXT)`, list)
	if err != nil {
		return err
	}
	_, err = t.Exec(`
		DELETE FROM webhook_event WHERE seq`+chosen+` AND NOT EXISTS (SELECT 1 FROM webhook_delivery d WHERE d.event_seq = webhook_event.seq)`,
		sqldb.ToJSON(of))
	return err
}

// dropAttempts deletes attempts beyond the kept number, at most a batch of each webhook.
func (s *Store) dropAttempts(ctx context.Context) error {
	ids, err := sqldb.Collect(ctx, s.db.Read(), sqldb.ScanString, `
		SELECT w.id FROM webhook w WHERE EXISTS (
			SELECT 1 FROM webhook_attempt a WHERE a.webhook_id = w.id ORDER BY a.at DESC, a.id DESC LIMIT 1 OFFSET $1)`, keptAttempts)
	for i := 0; err == nil && i < len(ids); i++ {
		err = s.db.InTxNoSync(ctx, func(t *sqldb.Tx) error {
			_, err := t.Exec(`
				DELETE FROM webhook_attempt WHERE id IN (
					SELECT a.id FROM webhook_attempt a WHERE a.webhook_id = $1 ORDER BY a.at DESC, a.id DESC LIMIT $3 OFFSET $2)`,
				ids[i], keptAttempts, 10*batch)
			return err
		})
	}
	return err
}

// Purge deletes at most a batch of deliveries that ended before a time, or whose webhooks were deleted, and returns the number of
// deleted rows.
func (s *Store) Purge(ctx context.Context, before time.Time) (int64, error) {
	return sqldb.InTx(ctx, s.db, func(t *sqldb.Tx) (int64, error) {
		old, err := sqldb.Collect(t.Ctx, t, sqldb.ScanInt, `
			SELECT seq FROM webhook_delivery WHERE state <> 'waiting' AND updated < $1 ORDER BY updated LIMIT $2`, sqldb.Micros(before), batch)
		if err == nil && len(old) < batch {
			var orphans []int64
			orphans, err = sqldb.Collect(t.Ctx, t, sqldb.ScanInt, `
				SELECT d.seq FROM webhook_deleted w JOIN webhook_delivery d ON d.webhook_id = w.id LIMIT $1`, batch)
			old = append(old, orphans...)
		}
		if err == nil {
			err = remove(t, old)
		}
		if err != nil || len(old) > 0 {
			return int64(len(old)), err
		}
		return purgeDeleted(t)
	})
}

// purgeDeleted deletes the other rows of deleted webhooks that have no deliveries.
func purgeDeleted(t *sqldb.Tx) (int64, error) {
	for _, table := range []string{"webhook_attempt", "webhook_stream"} {
		if _, err := t.Exec(`DELETE FROM ` + table + ` WHERE webhook_id IN (SELECT id FROM webhook_deleted)`); err != nil {
			return 0, err
		}
	}
	_, err := t.Exec(`DELETE FROM webhook_deleted WHERE at < $1`, t.Now-deletedFor.Microseconds())
	return 0, err
}
