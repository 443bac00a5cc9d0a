package api

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/api/internal/body"
	"github.com/countersign/countersign/api/internal/reply"
	"github.com/countersign/countersign/api/internal/timestamp"
	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/events"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/list"
)

// webhook is the form of a webhook (webhooks.md).
type webhook struct {
	object
	Name          string          `json:"name"`
	URL           string          `json:"url"`
	Patterns      []string        `json:"patterns"`
	EventTypes    []string        `json:"event_types" openapi:"nullable"`
	Active        bool            `json:"active"`
	Owner         *string         `json:"owner"`
	CACert        *string         `json:"ca_cert"`
	TLSValidation bool            `json:"tls_validation"`
	Hidden        []hiddenField   `json:"hidden_fields"`
	Backlog       int64           `json:"backlog"`
	FailingSince  *timestamp.Time `json:"failing_since"`
	Secret        string          `json:"secret,omitempty"` // only in the response to the request that makes it
}

func webhookForm(w pulp.Webhook) webhook {
	shown := webhook{
		object: objectOf(pulp.WebhookCollection, w.ID, w.Stamps), Name: w.Name, URL: w.URL, Patterns: w.Patterns, EventTypes: w.EventTypes,
		Active: w.Active, CACert: w.CACert, TLSValidation: w.TLSValidation, Backlog: w.Backlog, FailingSince: (*timestamp.Time)(w.FailingSince),
		Hidden: []hiddenField{{"secret", true}, {"headers", len(w.Headers) > 0}},
	}
	if w.OwnerID != 0 {
		shown.Owner = &w.Owner
	}
	return shown
}

func showWebhook(w pulp.Webhook) any { return webhookForm(w) }

func webhookHref(id string) string { return pulp.Href(pulp.WebhookCollection, id) }

func (a *API) webhooks() resource[pulp.Webhook] {
	return resource[pulp.Webhook]{
		model: "Webhook", form: webhook{}, list: list.WebhookList, show: showEach(showWebhook), within: a.visibleWebhooks,
		orderings: []string{"name", "url", "active", "owner"},
		filters:   mergeFilters(identityFilters(), nameFilters(), textFilters("owner"), dateFilters("pulp_created"), dateFilters("pulp_last_updated")),
		object:    func(w pulp.Webhook) (access.Object, string) { return access.OfWebhook(w), w.ID },
	}
}

// visibleWebhooks returns the condition for webhooks that the caller may view. Limited API tokens see none.
func (a *API) visibleWebhooks(req *request) ([]list.Filter, error) {
	if req.caller.Token.Limited() {
		return nil, errDenied
	}
	return a.visible(req)
}

func (a *API) webhookRoutes() []route {
	r := a.webhooks()
	path := pulp.WebhookCollection + ":id/"
	return slices.Concat([]route{
		{path: pulp.WebhookCollection, methods: map[string]operation{
			http.MethodGet: listOf(a, r), http.MethodPost: create(a.createWebhook, webhookFields, r.creates()),
		}},
		{path: path, href: "webhook_href", methods: map[string]operation{
			http.MethodGet: readOf(a, r), http.MethodDelete: remove(a.deleteWebhook, deletes),
			http.MethodPut:   update(a.editWebhook(true), webhookFields, r.changes()),
			http.MethodPatch: partialUpdate(a.editWebhook(false), webhookFields, r.changes()),
		}},
	}, a.deliveryRoutes())
}

// Limits of the fields of webhooks.
const (
	maxWebhookURL     = 2000
	maxWebhookHeaders = 20
)

// webhookFields are the fields of the bodies of webhooks.
var webhookFields = body.Form{
	"name": accountName.Required(), "url": body.Text.Required(), "secret": body.Secret, "active": body.Bool,
	"patterns": body.Texts.Required().NotEmpty().AtMost(maxTokenPatterns), "event_types": body.OptionalTexts.NotEmpty(),
	"headers": body.Headers, "ca_cert": body.Certificate, "tls_validation": body.Bool, "owner": body.Text,
}

// readWebhook reads the fields of a webhook into w. made is true if it makes a new secret. With whole the required fields must
// be present. Stored headers that another receiver could get are removed, unless the fields have new ones.
func readWebhook(b *body.Fields, w *pulp.Webhook, whole bool) (made bool) {
	b.Ignore("hidden_fields", "backlog", "failing_since")
	old := *w
	if v := readName(b, "name", body.RequiredIf(whole)); v != nil {
		w.Name = *v
	}
	if v := b.Text("url", body.RequiredIf(whole)).Value; v != nil {
		w.URL = *v
		if !validReceiver(*v) {
			b.Fail("url", "Enter http(s)://host[:port][/path] of at most %d characters, without credentials: these go into headers.", maxWebhookURL)
		}
	}
	patterns := b.Texts("patterns")
	switch {
	case b.Has("patterns"):
		w.Patterns = patterns
		if b.Valid("patterns") {
			checkPatterns(b, patterns)
		}
	case whole:
		b.Fail("patterns", "This field is required.")
	}
	if v := b.OptionalTexts("event_types"); v.Set {
		w.EventTypes = nil
		if v.Value != nil {
			w.EventTypes = readEventTypes(b, *v.Value)
		}
	}
	if v := b.Bool("active"); v != nil {
		w.Active = *v
	}
	if v := b.Bool("tls_validation"); v != nil {
		w.TLSValidation = *v
	}
	if v := b.Certificate("ca_cert"); v.Set {
		w.CACert = v.Value
	}
	if v := b.Headers("headers"); v.Set {
		w.Headers = nil
		if v.Value != nil {
			w.Headers = readHeaders(b, *v.Value)
		}
	} else if !w.KeepsHeaders(old) {
		w.Headers = nil
	}
	return readSecret(b, w)
}

// oldSecretFor is the time for which a replaced secret signs beside the new one.
const oldSecretFor = 24 * time.Hour

// readSecret reads the secret, and makes one if it is null, or absent in a new webhook.
func readSecret(b *body.Fields, w *pulp.Webhook) (made bool) {
	v := b.Secret("secret")
	if !v.Set && w.Secret != "" || !b.Valid("secret") {
		return false
	}
	if w.Secret != "" {
		until := time.Now().Add(oldSecretFor)
		w.OldSecret, w.OldSecretUntil = w.Secret, &until
	}
	if v.Value == nil {
		w.Secret = events.NewSecret()
		return true
	}
	if w.Secret = *v.Value; !events.ValidSecret(w.Secret) {
		b.Fail("secret", "Enter whsec_ followed by 24 to 64 random bytes in base64, or null for a new secret.")
	}
	return false
}

func validReceiver(text string) bool {
	u, err := url.Parse(text)
	return err == nil && body.IsWebURL(u) && u.User == nil && u.Fragment == "" && len(text) <= maxWebhookURL && pulp.ValidText(text)
}

func readEventTypes(b *body.Fields, texts []string) (types []string) {
	for _, text := range texts {
		if !slices.Contains(events.Types, events.Type(text)) {
			b.Fail("event_types", `"%s" is not a valid choice.`, text)
		}
		if !slices.Contains(types, text) {
			types = append(types, text)
		}
	}
	if len(texts) == 0 {
		b.Fail("event_types", "This list may not be empty. Use null for all types.")
	}
	return types
}

// ownHeaders are the headers that the server sets.
var ownHeaders = []string{
	"host", "content-type", "content-length", "transfer-encoding", "connection", "te", "trailer", "upgrade", "expect", "user-agent",
	events.IDHeader, events.TimestampHeader, events.SignatureHeader,
}

func readHeaders(b *body.Fields, all []map[string]string) map[string]string {
	headers := map[string]string{}
	for _, h := range all {
		for name, value := range h {
			if slices.Contains(ownHeaders, strings.ToLower(name)) {
				b.Fail("headers", "The header %s cannot be set.", name)
			}
			headers[http.CanonicalHeaderKey(name)] = value
		}
	}
	if len(headers) > maxWebhookHeaders {
		b.Fail("headers", "Ensure this field has no more than %d elements.", maxWebhookHeaders)
	}
	return headers
}

// requirePatterns returns an error unless the caller may have webhooks with the patterns: with the permission to create
// webhooks all, else those within namespaces whose roles the caller may manage.
func (a *API) requirePatterns(req *request, patterns []string) error {
	if req.caller.Owner() == 0 || req.caller.Token.Limited() {
		return errDenied
	}
	any, err := a.may(req, access.Create, access.Object{Kind: access.Webhook}, "")
	if err != nil || any {
		return err
	}
	checked := map[string]bool{}
	for _, p := range patterns {
		namespace := pulp.NamespaceOf(p)
		if checked[namespace] {
			continue
		}
		if _, err := a.managedNamespace(req, namespace); err != nil {
			return err
		}
		checked[namespace] = true
	}
	return nil
}

// readOwner reads the owner of a webhook, which only administrators may set.
func (a *API) readOwner(req *request, b *body.Fields, w *pulp.Webhook) error {
	name := readName(b, "owner")
	switch {
	case name == nil || *name == w.Owner && w.OwnerID != 0:
		return nil
	case !administers(req):
		b.Fail("owner", "Only administrators can change the owner.")
		return nil
	}
	u, err := a.Store.Accounts.UserByName(req.Context(), *name)
	if fault.Is(err, fault.NotFound) || err == nil && u.Kind == pulp.RuleIdentity {
		b.Fail("owner", "Object with username=%s does not exist.", *name)
		return nil
	}
	w.OwnerID = u.ID
	return err
}

// createWebhook creates a webhook. The response has the secret if the server has made it.
func (a *API) createWebhook(req *request) (reply.Reply, error) {
	b, err := body.Read(req.Request)
	if err != nil {
		return reply.Reply{}, err
	}
	w := pulp.Webhook{Active: true, TLSValidation: true, OwnerID: req.caller.Owner(), Owner: req.caller.Account.Username}
	made := readWebhook(b, &w, true)
	if err := a.readOwner(req, b, &w); err != nil {
		return reply.Reply{}, err
	}
	if err := a.requirePatterns(req, w.Patterns); err != nil {
		return reply.Reply{}, err
	}
	if err := b.Finish(); err != nil {
		return reply.Reply{}, err
	}
	secret := w.Secret
	if w, err = a.Store.Webhooks.CreateWebhook(req.Context(), w); err != nil {
		return reply.Reply{}, err
	}
	shown := webhookForm(w)
	if made {
		shown.Secret = secret
	}
	r := created(req, "create webhook", shown, shown.Href)
	r.Header.Set("Cache-Control", "no-store")
	return r, nil
}

// editWebhook returns the handler of PATCH or, when whole, of PUT. A secret of null makes a new one, which the response has.
func (a *API) editWebhook(whole bool) handler {
	return func(req *request) (reply.Reply, error) {
		before, err := permitted(a, a.webhooks(), req, access.Change)
		if err != nil {
			return reply.Reply{}, err
		}
		b, err := body.Read(req.Request)
		if err != nil {
			return reply.Reply{}, err
		}
		after := before
		made := readWebhook(b, &after, whole)
		if err := a.readOwner(req, b, &after); err != nil {
			return reply.Reply{}, err
		}
		if !slices.Equal(before.Patterns, after.Patterns) {
			if err := a.requirePatterns(req, after.Patterns); err != nil {
				return reply.Reply{}, err
			}
		}
		if err := b.Finish(); err != nil {
			return reply.Reply{}, err
		}
		w, err := a.Store.Webhooks.EditWebhook(req.Context(), before.ID, func(w *pulp.Webhook) {
			id, stamps := w.ID, w.Stamps
			*w = after
			w.ID, w.Stamps = id, stamps
		})
		if err != nil {
			return reply.Reply{}, err
		}
		req.audit("edit webhook", webhookHref(w.ID))
		shown := webhookForm(w)
		if made {
			shown.Secret = w.Secret
		}
		selected, err := req.selected.Of(shown)
		return reply.Reply{Status: http.StatusOK, Body: selected, Header: http.Header{"Cache-Control": {"no-store"}}}, err
	}
}

func (a *API) deleteWebhook(req *request) (reply.Reply, error) {
	w, err := permitted(a, a.webhooks(), req, access.Delete)
	if err == nil {
		err = a.Store.Webhooks.DeleteWebhook(req.Context(), w.ID)
	}
	if err != nil {
		return reply.Reply{}, err
	}
	req.audit("delete webhook", webhookHref(w.ID))
	return reply.Reply{Status: http.StatusNoContent}, nil
}
