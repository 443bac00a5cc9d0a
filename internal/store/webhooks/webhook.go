package webhooks

import (
	"context"
	"database/sql"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/events"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/accounts"
	"github.com/countersign/countersign/internal/store/eventlog"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// Numbers of webhooks. Each change of content reads the active ones.
const (
	maxWebhooks = 1000
	maxOfOwner  = 100 // that an account which is no administrator owns
)

// Webhook returns the webhook with an id. The error is NotFound if there is none.
func (s *Store) Webhook(ctx context.Context, id string) (pulp.Webhook, error) {
	return record.FindWebhook(ctx, s.db.Read(), id)
}

// CreateWebhook stores a new webhook and returns it with its id. The account w.OwnerID gets the owner's role. The error is
// Invalid if there are too many webhooks, and has the field "name" if the name is taken.
func (s *Store) CreateWebhook(ctx context.Context, w pulp.Webhook) (pulp.Webhook, error) {
	return sqldb.InTx(ctx, s.db, func(t *sqldb.Tx) (pulp.Webhook, error) {
		if err := checkNumber(t, w.OwnerID); err != nil {
			return w, err
		}
		w.ID = pulp.NewID()
		_, err := t.Exec(`
			INSERT INTO webhook (id, name, url, secret, patterns, event_types, active, headers, ca_cert, tls_validation, owner_id, created, updated)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $12)`,
			w.ID, w.Name, w.URL, w.Secret, sqldb.ToJSON(w.Patterns), sqldb.JSONList(w.EventTypes), w.Active, headersOf(w), sqldb.NullText(w.CACert),
			w.TLSValidation, w.OwnerID, t.Now)
		if err != nil {
			return w, uniqueName(err)
		}
		s.accounts.Changed(t)
		if err := accounts.Assign(t, w.OwnerID, access.WebhookOwner, access.Key(access.Webhook, w.ID)); err != nil {
			return w, err
		}
		return record.FindWebhook(t.Ctx, t, w.ID)
	})
}

// checkNumber returns an error if there are too many webhooks for another one of an account.
func checkNumber(t *sqldb.Tx, owner int64) error {
	var all, own int
	var staff bool
	err := t.Row(`
		SELECT (SELECT COUNT(*) FROM webhook), (SELECT COUNT(*) FROM webhook WHERE owner_id = $1),
		       COALESCE((SELECT is_staff FROM account WHERE id = $1), FALSE)`, owner).Scan(&all, &own, &staff)
	switch {
	case err != nil:
		return err
	case all >= maxWebhooks:
		return fault.New(fault.Invalid, "The server can have at most %d webhooks. Delete unused ones.", maxWebhooks)
	case own >= maxOfOwner && !staff:
		return fault.New(fault.Invalid, "An account can own at most %d webhooks. Delete unused ones.", maxOfOwner)
	}
	return nil
}

func uniqueName(err error) error {
	if sqldb.IsUnique(err) {
		return fault.Field("name", "This field must be unique.")
	}
	return err
}

func headersOf(w pulp.Webhook) string {
	if w.Headers == nil {
		return "{}"
	}
	return sqldb.ToJSON(w.Headers)
}

// EditWebhook changes a webhook with edit and returns it as it is afterwards. Waiting deliveries are attempted again soon. The
// error is NotFound if there is no such webhook, and has the field "name" if the name is taken.
func (s *Store) EditWebhook(ctx context.Context, id string, edit func(*pulp.Webhook)) (pulp.Webhook, error) {
	return sqldb.InTx(ctx, s.db, func(t *sqldb.Tx) (pulp.Webhook, error) {
		if err := t.LockRow("webhook", id); err != nil {
			return pulp.Webhook{}, err
		}
		w, err := record.FindWebhook(t.Ctx, t, id)
		if err != nil {
			return w, err
		}
		edit(&w)
		var until sql.NullInt64
		if w.OldSecretUntil != nil {
			until = sql.NullInt64{Int64: sqldb.Micros(*w.OldSecretUntil), Valid: true}
		}
		if _, err := t.Exec(`
			UPDATE webhook SET name = $2, url = $3, secret = $4, old_secret = $5, old_secret_until = $6, patterns = $7, event_types = $8,
			       active = $9, headers = $10, ca_cert = $11, tls_validation = $12, owner_id = $13, updated = $14
			 WHERE id = $1`,
			id, w.Name, w.URL, w.Secret, sqldb.NullIfEmpty(w.OldSecret), until, sqldb.ToJSON(w.Patterns), sqldb.JSONList(w.EventTypes),
			w.Active, headersOf(w), sqldb.NullText(w.CACert), w.TLSValidation, sql.NullInt64{Int64: w.OwnerID, Valid: w.OwnerID != 0}, t.Now,
		); err != nil {
			return w, uniqueName(err)
		}
		if err := hasten(t, id); err != nil {
			return w, err
		}
		return record.FindWebhook(t.Ctx, t, id)
	})
}

// hasten makes the streams of a webhook due that wait after failures.
func hasten(t *sqldb.Tx, webhook string) error {
	_, err := t.Exec(`UPDATE webhook_stream SET due = $2 WHERE webhook_id = $1 AND holder = '' AND due > $2`, webhook, t.Now)
	return err
}

// DeleteWebhook deletes a webhook. Its deliveries and attempts are deleted later (Purge). The error is NotFound if there is none.
func (s *Store) DeleteWebhook(ctx context.Context, id string) error {
	return s.db.InTx(ctx, func(t *sqldb.Tx) error {
		s.accounts.Changed(t)
		n, err := t.Exec(`DELETE FROM webhook WHERE id = $1`, id)
		if err == nil && n == 0 {
			err = fault.New(fault.NotFound, "No Webhook matches the given query.")
		}
		if err != nil {
			return err
		}
		_, err = t.Exec(`INSERT INTO webhook_deleted (id, at) VALUES ($1, $2)`, id, t.Now)
		return err
	})
}

// maxManual is the number of deliveries of a webhook that users have requested and that wait.
const maxManual = 100

// PutPing adds the delivery of a test event to a webhook and returns its id.
func (s *Store) PutPing(ctx context.Context, webhook string, e events.Event) (string, error) {
	return sqldb.InTx(ctx, s.db, func(t *sqldb.Tx) (string, error) {
		seq, err := eventlog.Put(t, e, "")
		if err != nil {
			return "", err
		}
		return deliverManually(t, webhook, seq)
	})
}

// Redeliver adds another delivery of the event of a delivery to the same webhook, and returns its id. The error is NotFound if
// the delivery is not stored any more.
func (s *Store) Redeliver(ctx context.Context, webhook, delivery string) (string, error) {
	return sqldb.InTx(ctx, s.db, func(t *sqldb.Tx) (string, error) {
		var seq int64
		err := t.Row(`SELECT event_seq FROM webhook_delivery WHERE id = $1 AND webhook_id = $2`, delivery, webhook).Scan(&seq)
		if err != nil {
			return "", sqldb.NotFound(err, "No Delivery matches the given query.")
		}
		return deliverManually(t, webhook, seq)
	})
}

func deliverManually(t *sqldb.Tx, webhook string, event int64) (string, error) {
	var waiting int
	err := t.Row(`SELECT COUNT(*) FROM webhook_delivery WHERE webhook_id = $1 AND stream = $2 AND state = 'waiting'`, webhook, eventlog.Manual).Scan(&waiting)
	if err == nil && waiting >= maxManual {
		err = fault.New(fault.Conflict, "%d deliveries that users have requested are waiting. Try again later.", waiting)
	}
	if err != nil {
		return "", err
	}
	id, err := eventlog.Deliver(t, webhook, eventlog.Manual, event, true)
	if err != nil {
		return "", err
	}
	return id, eventlog.Wake(t, webhook, eventlog.Manual)
}
