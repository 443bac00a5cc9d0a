package list

import (
	"context"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/events"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
)

// WebhookList is the list of webhooks. The secrets are no fields: clients cannot filter or sort by them.
var WebhookList = &List[pulp.Webhook]{
	long: []string{"url"},
	large: []large{
		{attributes: []string{"patterns"}, column: "w.patterns", instead: "'[]'"},
		{attributes: []string{"ca_cert"}, column: "w.ca_cert", instead: "NULL"},
	},
	columns: record.WebhookColumns, source: ` FROM webhook w`, id: "w.id", scan: record.ScanWebhook,
	fields: with("w", map[string]string{
		"name": "w.name", "url": "w.url", "active": "w.active", "owner": "(SELECT a.username FROM account a WHERE a.id = w.owner_id)",
	}),
	visible: permitted(access.Webhook, "w.id"),
}

// Webhooks lists webhooks.
func (s *Store) Webhooks(ctx context.Context, q Query) ([]pulp.Webhook, int64, error) {
	return WebhookList.Rows(ctx, s, q)
}

// ofSeenRepositories returns the visibility of rows about repositories, and of those with test events.
func ofSeenRepositories(repository, kind string) visibility {
	return func(b *statement) string {
		return kind + " = '" + string(events.Ping) + "' OR " + repository + " IN (" + record.PublicRepositories + " UNION ALL " + b.ownRepositories() + ")"
	}
}

// DeliveryList is the list of the deliveries of all webhooks. A restricted viewer sees those about repositories that the
// viewer sees.
var DeliveryList = &List[events.Delivery]{
	large:   []large{{attributes: []string{"event"}, column: "e.data", instead: "''"}},
	columns: record.DeliveryColumns, source: record.DeliverySource, id: "d.id", scan: record.ScanDelivery,
	fields: with("d", map[string]string{
		"seq": "d.seq", "webhook": "d.webhook_id", "state": "d.state", "attempts": "d.attempts", "status": "d.status", "event_id": "e.id",
		"event_type": "e.type", "subject": "e.subject", "repository": "e.repository_id",
	}),
	visible: ofSeenRepositories("e.repository_id", "e.type"),
}

// Deliveries lists the deliveries of all webhooks.
func (s *Store) Deliveries(ctx context.Context, q Query) ([]events.Delivery, int64, error) {
	return DeliveryList.Rows(ctx, s, q)
}

// AttemptList is the list of the attempts at deliveries of all webhooks, with the visibility of DeliveryList.
var AttemptList = &List[events.Attempt]{
	columns: record.AttemptColumns, source: ` FROM webhook_attempt a`, id: "a.id", scan: record.ScanAttempt,
	fields: map[string]string{
		"pulp_id": "a.id", "pk": "a.id", "pulp_created": "a.at", "pulp_last_updated": "a.at", "at": "a.at", "duration": "a.duration",
		"webhook": "a.webhook_id", "delivery": "a.delivery_id", "event_id": "a.event_id", "event_type": "a.event_type",
		"repository": "a.repository_id", "status": "a.status", "error": "a.error",
	},
	visible: ofSeenRepositories("a.repository_id", "a.event_type"),
}

// Attempts lists the attempts at deliveries of all webhooks.
func (s *Store) Attempts(ctx context.Context, q Query) ([]events.Attempt, int64, error) {
	return AttemptList.Rows(ctx, s, q)
}
