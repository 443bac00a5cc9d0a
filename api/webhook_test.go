package api_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/storetest"
)

// madeWebhook is the part of a created webhook that tests use.
type madeWebhook struct {
	Href   string `json:"pulp_href"`
	Secret string `json:"secret"`
}

func (w *world) makeWebhook(as, json string) madeWebhook {
	w.t.Helper()
	got := w.expect(call{user: as, method: "POST", path: "webhooks/", json: json}, http.StatusCreated, "")
	var made madeWebhook
	if err := unmarshal(got.raw, &made); err != nil {
		w.t.Fatal(err)
	}
	return made
}

const receiverURL = `"url":"https://receiver.example/x"`

// TestWebhooks creates, shows, edits and deletes webhooks.
func TestWebhooks(t *testing.T) {
	t.Parallel()
	w := newTokenWorld(t)
	made := w.makeWebhook("", `{"name":"w",`+receiverURL+`,"patterns":["*"],"headers":[{"Authorization":"Bearer hidden"}]}`)
	if !strings.HasPrefix(made.Secret, "whsec_") {
		t.Errorf("created: %+v", made)
	}
	shown := w.get(made.Href)
	if shown["secret"] != nil || shown["headers"] != nil || shown["owner"] != "admin" || shown["event_types"] != nil || shown["active"] != true ||
		shown["tls_validation"] != true || shown["backlog"] != 0.0 || shown["failing_since"] != nil {
		t.Errorf("shown: %v", shown)
	}
	for body, want := range map[string]string{
		`{}`: `{"name":["This field is required."],"patterns":["This field is required."],"url":["This field is required."]}`,
		`{"name":"w",` + receiverURL + `,"patterns":["*"]}`:                                `{"name":["This field must be unique."]}`,
		`{"name":"x","url":"https://user:pw@receiver.example","patterns":["*"]}`:           "",
		`{"name":"x","url":"ftp://receiver.example","patterns":["*"]}`:                     "",
		`{"name":"x","url":"https://receiver.example/#x","patterns":["*"]}`:                "",
		`{"name":"x",` + receiverURL + `,"patterns":[]}`:                                   "",
		`{"name":"x",` + receiverURL + `,"patterns":["*"],"event_types":["x"]}`:            `{"event_types":["\"x\" is not a valid choice."]}`,
		`{"name":"x",` + receiverURL + `,"patterns":["*"],"event_types":[]}`:               "",
		`{"name":"x",` + receiverURL + `,"patterns":["*"],"secret":"short"}`:               "",
		`{"name":"x",` + receiverURL + `,"patterns":["*"],"headers":[{"Webhook-Id":"x"}]}`: `{"headers":["The header Webhook-Id cannot be set."]}`,
		`{"name":"x",` + receiverURL + `,"patterns":["*"],"headers":[{"A":"x\r\nB: y"}]}`:  "",
		`{"name":"x",` + receiverURL + `,"patterns":["*"],"ca_cert":"x"}`:                  "",
		`{"name":"x",` + receiverURL + `,"patterns":["*"],"owner":"nobody"}`:               "",
		`{"name":"x",` + receiverURL + `,"patterns":["*"],"color":"x"}`:                    `{"color":["Unexpected field"]}`,
	} {
		w.expect(call{method: "POST", path: "webhooks/", json: body}, http.StatusBadRequest, want)
	}
	old, err := w.store.Webhooks.Webhook(t.Context(), strings.Split(made.Href, "/")[5])
	if err != nil || old.Headers["Authorization"] != "Bearer hidden" || old.Secret != made.Secret {
		t.Fatal(old, err)
	}
	var changed madeWebhook
	got := w.expect(call{method: "PATCH", path: made.Href, json: `{"secret":null,"event_types":["io.countersign.tag.moved.v1"],"active":false}`}, http.StatusOK, "")
	if err := unmarshal(got.raw, &changed); err != nil || changed.Secret == made.Secret || changed.Secret == "" {
		t.Errorf("edited: %s, %v", got.raw, err)
	}
	now, err := w.store.Webhooks.Webhook(t.Context(), old.ID)
	if err != nil || now.Secret != changed.Secret || now.OldSecret != old.Secret || now.OldSecretUntil == nil || now.Active || len(now.EventTypes) != 1 {
		t.Errorf("stored: %+v, %v", now, err)
	}
	w.expect(call{method: "POST", path: made.Href + "ping/"}, http.StatusConflict, "")
	w.expect(call{method: "PUT", path: made.Href, json: `{"name":"new",` + receiverURL + `,"patterns":["acme/*"],"active":true}`}, http.StatusOK, "")
	ping := w.expect(call{method: "POST", path: made.Href + "ping/"}, http.StatusCreated, "")
	if !strings.Contains(ping.raw, `"event_type":"io.countersign.webhook.ping.v1"`) || !strings.Contains(ping.raw, `"specversion":"1.0"`) {
		t.Errorf("ping: %s", ping.raw)
	}
	w.expect(call{method: "DELETE", path: made.Href}, http.StatusNoContent, "")
	w.expect(call{path: made.Href}, http.StatusNotFound, "")
}

// TestHeadersOfMovedWebhooks verifies that hidden headers do not reach another receiver.
func TestHeadersOfMovedWebhooks(t *testing.T) {
	t.Parallel()
	w := newTokenWorld(t)
	const headers = `"headers":[{"Authorization":"Bearer hidden"}]`
	made := w.makeWebhook("", `{"name":"w",`+receiverURL+`,"patterns":["*"],`+headers+`}`)
	for _, tt := range []struct {
		body  string
		keeps bool
	}{
		{`{"url":"https://RECEIVER.example:443/other"}`, true},
		{`{"active":false}`, true},
		{`{"url":"https://other.example/x"}`, false},
		{`{"url":"http://receiver.example/x"}`, false},
		{`{"url":"https://receiver.example:8443/x"}`, false},
		{`{"url":"https://other.example/x",` + headers + `}`, true},
		{`{"tls_validation":false}`, false},
		{`{"tls_validation":false,` + headers + `}`, true},
	} {
		w.expect(call{method: "PATCH", path: made.Href, json: `{` + receiverURL + `,"tls_validation":true,` + headers + `}`}, http.StatusOK, "")
		w.expect(call{method: "PATCH", path: made.Href, json: tt.body}, http.StatusOK, "")
		now, err := w.store.Webhooks.Webhook(t.Context(), strings.Split(made.Href, "/")[5])
		if err != nil || (now.Headers["Authorization"] == "Bearer hidden") != tt.keeps {
			t.Errorf("%s: headers %v, %v", tt.body, now.Headers, err)
		}
	}
}

// TestWebhooksOfNamespaceOwners lets the owner of a namespace have webhooks for it only, and shows events that the caller may view.
func TestWebhooksOfNamespaceOwners(t *testing.T) {
	t.Parallel()
	w := newTokenWorld(t)
	to := storetest.Target(t, w.store, "acme/app")
	storetest.User(t, w.store, "owner")
	namespace := pulp.Href(pulp.NamespaceCollection, to.Distribution.NamespaceID)
	w.expect(call{method: "POST", path: namespace + "add_role/", json: `{"role":"container.containernamespace_owner","users":["owner"]}`}, http.StatusCreated, "")
	body := func(name, patterns string) string {
		return `{"name":"` + name + `",` + receiverURL + `,"patterns":` + patterns + `}`
	}
	for _, patterns := range []string{`["*"]`, `["other/*"]`, `["acme*"]`, `["acme/*","x"]`, `["ac?e/*"]`} {
		w.expect(call{user: "owner", method: "POST", path: "webhooks/", json: body("x", patterns)}, http.StatusForbidden, "")
	}
	w.expect(call{user: "carol", method: "POST", path: "webhooks/", json: body("x", `["acme/*"]`)}, http.StatusForbidden, "")
	made := w.makeWebhook("owner", body("own", `["acme/*","acme/app"]`))
	w.expect(call{user: "owner", method: "PATCH", path: made.Href, json: `{"patterns":["*"]}`}, http.StatusForbidden, "")
	w.expect(call{user: "owner", method: "PATCH", path: made.Href, json: `{"owner":"admin"}`}, http.StatusBadRequest, "")
	w.expect(call{user: "owner", method: "PATCH", path: made.Href, json: `{"active":true}`}, http.StatusOK, "")
	w.expect(call{user: "carol", path: made.Href}, http.StatusNotFound, "")
	token := w.makeToken("owner", `{"name":"limited","actions":["pull"]}`)
	w.expect(call{user: "owner", path: made.Href, header: map[string]string{"Token": token.id()}}, http.StatusForbidden, "")

	storetest.Exec(t, w.store, `UPDATE distribution SET private = TRUE`)
	storetest.PushImage(t, w.store, to.Repository.ID, "x", "v1")
	deliveries := func(user string) int {
		t.Helper()
		r := w.expect(call{user: user, path: made.Href + "deliveries/?event_type=io.countersign.repository.push.v1"}, http.StatusOK, "")
		return int(r.body.(map[string]any)["count"].(float64))
	}
	w.expect(call{method: "POST", path: made.Href + "add_role/", json: `{"role":"countersign.webhook_viewer","users":["carol"]}`}, http.StatusCreated, "")
	if owner, viewer := deliveries("owner"), deliveries("carol"); owner != 1 || viewer != 0 {
		t.Errorf("the owner sees %d deliveries, another viewer of the webhook %d", owner, viewer)
	}
	list := w.get(made.Href + "deliveries/?event_type=io.countersign.repository.push.v1")["results"].([]any)[0].(map[string]any)
	href := list["pulp_href"].(string)
	if list["state"] != "waiting" || list["subject"] != "acme/app:v1" || list["repository"] != pulp.RepositoryHref(to.Repository.Type, to.Repository.ID) {
		t.Errorf("delivery: %v", list)
	}
	w.expect(call{user: "carol", path: href}, http.StatusNotFound, "")
	w.expect(call{user: "carol", method: "POST", path: href + "redeliver/"}, http.StatusForbidden, "")
	w.expect(call{user: "owner", method: "POST", path: href + "redeliver/"}, http.StatusCreated, "")
	if n := deliveries("owner"); n != 2 {
		t.Errorf("%d deliveries after redelivery", n)
	}
	w.expect(call{user: "owner", path: made.Href + "attempts/"}, http.StatusOK, `{"count":0,"next":null,"previous":null,"results":[]}`)
	w.expect(call{method: "PATCH", path: made.Href, json: `{"owner":"carol"}`}, http.StatusOK, "")
}
