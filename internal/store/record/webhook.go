package record

import (
	"context"
	"database/sql"
	"time"

	"github.com/countersign/countersign/internal/events"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// WebhookColumns are the columns of a webhook w that ScanWebhook reads.
const WebhookColumns = `w.id, w.name, w.url, w.secret, w.old_secret, w.old_secret_until, w.patterns, w.event_types, w.active, w.headers,
	w.ca_cert, w.tls_validation, w.owner_id, (SELECT a.username FROM account a WHERE a.id = w.owner_id),
	(SELECT COUNT(*) FROM webhook_delivery d WHERE d.webhook_id = w.id AND d.state = 'waiting'),
	(SELECT MIN(s.failing_since) FROM webhook_stream s WHERE s.webhook_id = w.id), w.created, w.updated`

// ScanWebhook reads a webhook with its secrets.
func ScanWebhook(row sqldb.Scanner) (pulp.Webhook, error) {
	var w pulp.Webhook
	var old, types, ca, owner sql.NullString
	var until, ownerID, failing sql.NullInt64
	var patterns, headers string
	var created, updated int64
	err := row.Scan(&w.ID, &w.Name, &w.URL, &w.Secret, &old, &until, &patterns, &types, &w.Active, &headers, &ca, &w.TLSValidation,
		&ownerID, &owner, &w.Backlog, &failing, &created, &updated)
	if err == nil {
		err = sqldb.FromJSON("webhook.patterns", patterns, &w.Patterns)
	}
	if err == nil && types.Valid {
		err = sqldb.FromJSON("webhook.event_types", types.String, &w.EventTypes)
	}
	if err == nil {
		err = sqldb.FromJSON("webhook.headers", headers, &w.Headers)
	}
	if err != nil {
		return pulp.Webhook{}, err
	}
	w.OldSecret, w.OldSecretUntil, w.CACert = old.String, sqldb.FromNullMicros(until), sqldb.Pointer(ca)
	w.OwnerID, w.Owner, w.FailingSince, w.Stamps = ownerID.Int64, owner.String, sqldb.FromNullMicros(failing), Stamps(created, updated)
	return w, nil
}

// FindWebhook returns the webhook with an id. The error is NotFound if there is none.
func FindWebhook(ctx context.Context, q sqldb.Querier, id string) (pulp.Webhook, error) {
	w, err := ScanWebhook(q.QueryRowContext(ctx, `SELECT `+WebhookColumns+` FROM webhook w WHERE w.id = $1`, id))
	return w, sqldb.NotFound(err, "No Webhook matches the given query.")
}

// The columns of a delivery d with its event e that ScanDelivery reads, and the tables that they are from.
const (
	DeliveryColumns = `d.id, d.seq, d.webhook_id, d.once, d.state, d.attempts, d.status, d.error, d.created, d.updated,
	e.id, e.seq, e.type, e.repository_id, e.path, e.subject, e.at, e.data`
	DeliverySource = ` FROM webhook_delivery d JOIN webhook_event e ON e.seq = d.event_seq`
)

// ScanDelivery reads a delivery.
func ScanDelivery(row sqldb.Scanner) (events.Delivery, error) {
	var d events.Delivery
	var status sql.NullInt64
	var created, updated, at int64
	var data string
	e := &d.Event
	err := row.Scan(&d.ID, &d.Seq, &d.WebhookID, &d.Once, &d.State, &d.Attempts, &status, &d.Error, &created, &updated,
		&e.ID, &e.Sequence, &e.Type, &d.RepositoryID, &e.Path, &e.Subject, &at, &data)
	d.Status, d.Created, d.Updated = int(status.Int64), sqldb.FromMicros(created), sqldb.FromMicros(updated)
	e.Time, e.Data = sqldb.FromMicros(at), []byte(data)
	return d, err
}

// AttemptColumns are the columns of an attempt a that ScanAttempt reads.
const AttemptColumns = `a.id, a.webhook_id, a.delivery_id, a.repository_id, a.event_id, a.event_type, a.at, a.duration, a.status, a.error`

// ScanAttempt reads an attempt at a delivery.
func ScanAttempt(row sqldb.Scanner) (events.Attempt, error) {
	var a events.Attempt
	var status sql.NullInt64
	var at, duration int64
	err := row.Scan(&a.ID, &a.WebhookID, &a.DeliveryID, &a.RepositoryID, &a.EventID, &a.EventType, &at, &duration, &status, &a.Error)
	a.At, a.Duration, a.Status = sqldb.FromMicros(at), time.Duration(duration)*time.Microsecond, int(status.Int64)
	return a, err
}
