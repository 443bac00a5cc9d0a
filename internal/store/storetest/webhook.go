package storetest

import (
	"testing"

	"github.com/countersign/countersign/internal/events"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/list"
)

// AddWebhook adds a webhook of the account admin, which it creates as an administrator if there is none. edit, if not nil,
// changes it before.
func AddWebhook(t *testing.T, s *store.Store, name string, edit func(*pulp.Webhook), patterns ...string) pulp.Webhook {
	t.Helper()
	admin, err := s.Accounts.PutUser(t.Context(), "admin", "hash", true, true)
	if err != nil {
		t.Fatal(err)
	}
	w := pulp.Webhook{
		Name: name, URL: "https://receiver.example/hook", Secret: events.NewSecret(), Patterns: patterns, Active: true, TLSValidation: true, OwnerID: admin.ID,
	}
	if edit != nil {
		edit(&w)
	}
	if w, err = s.Webhooks.CreateWebhook(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	return w
}

// Deliveries returns the deliveries of a webhook, oldest first.
func Deliveries(t *testing.T, s *store.Store, webhook string) []events.Delivery {
	t.Helper()
	all, _, err := s.Lists.Deliveries(t.Context(), list.Query{
		Where: []list.Filter{list.Where("webhook", list.Equal, webhook)}, Limit: 10_000, Order: []list.Order{{Field: "seq"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
