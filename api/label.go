package api

import (
	"log/slog"
	"net/http"
	"strings"

	"github.com/countersign/countersign/api/internal/body"
	"github.com/countersign/countersign/api/internal/openapi"
	"github.com/countersign/countersign/api/internal/query"
	"github.com/countersign/countersign/api/internal/reply"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/list"
)

// labelFilters are the filters of objects with labels.
func labelFilters() filters {
	return filters{"pulp_label_select": {openapi.Text(), func(_ *API, _ *request, name string, values []string) (list.Filter, error) {
		text := query.Last(values)
		if text == "" {
			return nil, nil
		}
		return query.ParseLabels(name, text)
	}}}
}

// label is one label of an object, in the responses of set_label/ and unset_label/.
type label struct {
	Key   string  `json:"key"`
	Value *string `json:"value"`
}

// labelRoutes returns the routes of the actions that set and unset one label of an object
// (compatibility.md#container-repositories). authorize returns the object that the path names if the caller may
// change it.
func labelRoutes[T any](a *API, collection string, authorize func(*request) (T, error)) []route {
	set := func(req *request, b *body.Fields, key string) (*string, error) {
		value := b.Text("value", body.Required, body.Nullable).Value
		if value != nil && strings.ContainsAny(*value, "()") {
			b.Fail("value", "Key '%s' contains value with parenthesis.", key)
		}
		if err := b.Finish(); err != nil {
			return nil, err
		}
		return value, a.Store.Catalog.SetLabel(req.Context(), collection, strings.ToLower(req.param("id")), key, value)
	}
	unset := func(req *request, b *body.Fields, key string) (*string, error) {
		if err := b.Finish(); err != nil {
			return nil, err
		}
		return a.Store.Catalog.UnsetLabel(req.Context(), collection, strings.ToLower(req.param("id")), key)
	}
	key := body.Form{"key": body.Text.Required()}
	return []route{
		{path: collection + ":id/set_label/", methods: post(operation{
			handle: labelAction("set label", collection, authorize, set), replies: replies{http.StatusCreated: label{}},
			body: key.With(body.Form{"value": body.Text.Required().Nullable()}),
		})},
		{path: collection + ":id/unset_label/", methods: post(operation{
			handle: labelAction("unset label", collection, authorize, unset), replies: replies{http.StatusCreated: label{}}, body: key,
		})},
	}
}

// labelAction returns the handler of an action, with its name in the audit log, on one label. change changes the label with the key and returns the
// value to show.
func labelAction[T any](
	action, collection string, authorize func(*request) (T, error),
	change func(req *request, b *body.Fields, key string) (*string, error),
) handler {
	return func(req *request) (reply.Reply, error) {
		if _, err := authorize(req); err != nil {
			return reply.Reply{}, err
		}
		b, err := body.Read(req.Request)
		if err != nil {
			return reply.Reply{}, err
		}
		key := b.Text("key", body.Required).Value
		if key != nil && b.Valid("key") && !body.ValidLabelKey(*key) {
			b.Fail("key", "Key '%s' contains non-alphanumerics.", *key)
		}
		if key == nil {
			return reply.Reply{}, b.Finish()
		}
		value, err := change(req, b, *key)
		if err != nil {
			return reply.Reply{}, err
		}
		req.audit(action, pulp.Href(collection, strings.ToLower(req.param("id"))), slog.String("key", *key))
		return reply.Reply{Status: http.StatusCreated, Body: label{*key, value}}, nil
	}
}
