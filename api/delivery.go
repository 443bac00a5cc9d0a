package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/countersign/countersign/api/internal/body"
	"github.com/countersign/countersign/api/internal/reply"
	"github.com/countersign/countersign/api/internal/timestamp"
	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/actor"
	"github.com/countersign/countersign/internal/events"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/list"
)

// delivery is the form of the delivery of an event to a webhook.
type delivery struct {
	Href       string          `json:"pulp_href"`
	Created    timestamp.Time  `json:"pulp_created"`
	Updated    timestamp.Time  `json:"pulp_last_updated"`
	EventID    string          `json:"event_id"`
	EventType  string          `json:"event_type"`
	Subject    string          `json:"subject"`
	Repository *string         `json:"repository"`
	State      events.State    `json:"state"`
	Attempts   int64           `json:"attempts"`
	Status     *int            `json:"status"`
	Error      *string         `json:"error"`
	Event      json.RawMessage `json:"event"` // as the receiver gets it
}

// deliveryAttempt is the form of an attempt at a delivery.
type deliveryAttempt struct {
	At        timestamp.Time `json:"at"`
	Delivery  *string        `json:"delivery"` // null: a report of lost events
	EventID   string         `json:"event_id"`
	EventType string         `json:"event_type"`
	Duration  float64        `json:"duration"` // seconds
	Status    *int           `json:"status"`
	Error     *string        `json:"error"` // null: the receiver has accepted the event
}

func deliveryHref(webhook, id string) string { return webhookHref(webhook) + "deliveries/" + id + "/" }

func statusOf(status int) *int {
	if status == 0 {
		return nil
	}
	return &status
}

func errorOf(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

// showDeliveries returns the forms of deliveries. Callers who are no administrators see no details of tasks.
func (a *API) showDeliveries(req *request, all []events.Delivery) ([]any, error) {
	shown := make([]any, len(all))
	for i, d := range all {
		v := delivery{
			Href: deliveryHref(d.WebhookID, d.ID), Created: timestamp.Time(d.Created), Updated: timestamp.Time(d.Updated),
			EventID: d.Event.ID, EventType: string(d.Event.Type), Subject: d.Event.Subject, State: d.State, Attempts: d.Attempts,
			Status: statusOf(d.Status), Error: errorOf(d.Error),
		}
		if d.RepositoryID != "" {
			v.Repository = &d.Event.Path
		}
		if len(d.Event.Data) > 0 {
			e, err := d.Event, error(nil)
			if !administers(req) {
				e, err = e.WithoutDetails()
			}
			if err == nil {
				v.Event, err = e.Encode(a.PublicURL.String())
			}
			if err != nil {
				return nil, err
			}
		}
		shown[i] = v
	}
	return shown, nil
}

func showAttempt(t events.Attempt) any {
	shown := deliveryAttempt{
		At: timestamp.Time(t.At), EventID: t.EventID, EventType: string(t.EventType), Duration: t.Duration.Seconds(), Status: statusOf(t.Status),
		Error: errorOf(t.Error),
	}
	if t.DeliveryID != "" {
		href := deliveryHref(t.WebhookID, t.DeliveryID)
		shown.Delivery = &href
	}
	return shown
}

// ofWebhook returns the condition for rows of the webhook that the path names, about repositories that the caller sees.
func (a *API) ofWebhook(req *request) ([]list.Filter, error) {
	w, err := permitted(a, a.webhooks(), req, access.View)
	if err != nil {
		return nil, err
	}
	seen, err := a.visible(req)
	return append(seen, list.Where("webhook", list.Equal, w.ID)), err
}

func (a *API) deliveries() resource[events.Delivery] {
	return resource[events.Delivery]{
		model: "Delivery", form: delivery{}, list: list.DeliveryList, show: a.showDeliveries, within: a.ofWebhook, key: byDelivery,
		orderings: []string{"state", "attempts", "status", "event_type"},
		filters: mergeFilters(textFilters("state"), textFilters("event_id"), textFilters("event_type"), textFilters("subject"),
			dateFilters("pulp_created"), dateFilters("pulp_last_updated")),
	}
}

func (a *API) deliveryAttempts() resource[events.Attempt] {
	return resource[events.Attempt]{
		model: "Attempt", form: deliveryAttempt{}, list: list.AttemptList, show: showEach(showAttempt), within: a.ofWebhook,
		orderings: []string{"at", "duration", "status"},
		filters:   mergeFilters(textFilters("event_id"), textFilters("event_type"), dateFilters("at")),
	}
}

// byDelivery returns the condition for the delivery that the path names.
func byDelivery(req *request) (list.Filter, error) {
	id := req.param("delivery")
	if !pulp.ValidUUID(id) {
		return nil, reply.ErrNotFound
	}
	return list.Where("pulp_id", list.Equal, strings.ToLower(id)), nil
}

func (a *API) deliveryRoutes() []route {
	path := pulp.WebhookCollection + ":id/"
	r := a.deliveries()
	return []route{
		{path: path + "ping/", methods: post(operation{handle: a.ping, body: body.Form{}, replies: replies{http.StatusCreated: delivery{}}, fails: []int{http.StatusConflict}})},
		{path: path + "attempts/", methods: get(listOf(a, a.deliveryAttempts()))},
		{path: path + "deliveries/", methods: get(listOf(a, r))},
		{path: path + "deliveries/:delivery/", href: "delivery_href", methods: get(readOf(a, r))},
		{path: path + "deliveries/:delivery/redeliver/", methods: post(operation{
			handle: a.redeliver, body: body.Form{}, replies: replies{http.StatusCreated: delivery{}}, fails: []int{http.StatusConflict},
		})},
	}
}

// activeWebhook returns the webhook that the path names, if the caller may change it and it is active. It reads the body, which
// has no fields.
func (a *API) activeWebhook(req *request) (pulp.Webhook, error) {
	w, err := permitted(a, a.webhooks(), req, access.Change)
	if err != nil {
		return w, err
	}
	b, err := body.Read(req.Request)
	if err == nil {
		err = b.Finish()
	}
	if err == nil && !w.Active {
		err = fault.New(fault.Conflict, "The webhook is not active.")
	}
	return w, err
}

// ping sends a test event, once.
func (a *API) ping(req *request) (reply.Reply, error) {
	w, err := a.activeWebhook(req)
	if err != nil {
		return reply.Reply{}, err
	}
	by := actor.From(req.Context())
	e, err := events.New(events.Ping, webhookHref(w.ID), w.Name, events.PingData{
		Webhook: events.Webhook{Name: w.Name, Href: webhookHref(w.ID)}, Actor: events.Actor{Name: by.Name, Kind: string(by.Kind)},
	})
	if err != nil {
		return reply.Reply{}, err
	}
	id, err := a.Store.Webhooks.PutPing(req.Context(), w.ID, e)
	if err != nil {
		return reply.Reply{}, err
	}
	return a.requested(req, "ping webhook", w, id)
}

// redeliver sends the event of a delivery again, once.
func (a *API) redeliver(req *request) (reply.Reply, error) {
	w, err := a.activeWebhook(req)
	if err != nil {
		return reply.Reply{}, err
	}
	d, err := findByPath(a, a.deliveries(), req)
	if err != nil {
		return reply.Reply{}, err
	}
	id, err := a.Store.Webhooks.Redeliver(req.Context(), w.ID, d.ID)
	if err != nil {
		return reply.Reply{}, err
	}
	return a.requested(req, "redeliver event", w, id)
}

// requested responds with a delivery that the caller has requested.
func (a *API) requested(req *request, action string, w pulp.Webhook, id string) (reply.Reply, error) {
	found, _, err := a.Store.Lists.Deliveries(req.Context(), list.Query{
		Where: []list.Filter{list.Where("pulp_id", list.Equal, id)}, Limit: 1,
	})
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("delivery %s was deleted at once", id)
	}
	if err != nil {
		return reply.Reply{}, err
	}
	shown, err := a.showDeliveries(req, found)
	if err != nil {
		return reply.Reply{}, err
	}
	req.audit(action, webhookHref(w.ID))
	return reply.Reply{Status: http.StatusCreated, Body: shown[0], Header: http.Header{"Location": {deliveryHref(w.ID, id)}}}, nil
}
