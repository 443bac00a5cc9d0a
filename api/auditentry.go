package api

import (
	"encoding/json"

	"github.com/countersign/countersign/api/internal/timestamp"
	"github.com/countersign/countersign/internal/actor"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/list"
)

// auditEntry is an entry of the audit log. docs/audit.md describes its fields.
type auditEntry struct {
	object
	At          timestamp.Time  `json:"at"`
	Actor       string          `json:"actor"`
	ActorHref   *string         `json:"actor_href"` // null without an account, and after its deletion
	ActorKind   actor.Kind      `json:"actor_kind"`
	Identity    string          `json:"identity"`
	Address     string          `json:"address"`
	Action      string          `json:"action"`
	Object      string          `json:"object"`
	Result      audit.Result    `json:"result"`
	Status      *int            `json:"status"`
	Count       int64           `json:"count"`
	Correlation string          `json:"correlation_id"`
	Details     json.RawMessage `json:"details"`
}

func showAuditEntry(e audit.Entry) any {
	shown := auditEntry{
		object: objectOf(pulp.AuditCollection, e.ID, pulp.Stamps{Created: e.At, Updated: e.At}), At: timestamp.Time(e.At),
		Actor: e.Actor.Name, ActorKind: e.Actor.Kind, Identity: e.Actor.Identity, Address: e.Actor.Address, Action: e.Action,
		Object: e.Object, Result: e.Result, Count: e.Count, Correlation: e.Correlation, Details: e.Details,
	}
	if e.Actor.ID != 0 {
		href := pulp.UserHref(e.Actor.ID)
		shown.ActorHref = &href
	}
	if e.Status != 0 {
		shown.Status = &e.Status
	}
	return shown
}

// auditEntries are the entries of the audit log, for administrators.
func (a *API) auditEntries() resource[audit.Entry] {
	var texts []filters
	for _, field := range []string{"actor", "actor_kind", "identity", "address", "action", "object", "correlation_id"} {
		texts = append(texts, exactFilters(field))
	}
	results := []string{string(audit.Done), string(audit.Denied), string(audit.Failed)}
	result := choice(results, func(v []string) list.Filter { return list.OneOf("result", v) })
	return resource[audit.Entry]{
		model: "AuditEntry", form: auditEntry{}, list: list.AuditList, show: showEach(showAuditEntry),
		orderings: []string{"at", "actor", "action", "object", "result"}, order: []list.Order{{Field: "at", Desc: true}},
		within: func(req *request) ([]list.Filter, error) { return nil, req.requireAdministrator() },
		filters: mergeFilters(append(texts, identityFilters(), dateFilters("at"), dateFilters("pulp_created"), filters{
			"result": one(result), "result__in": result, "object__startswith": compare("object", list.HasPrefix),
		})...),
	}
}

func (a *API) auditRoutes() []route {
	return []route{
		{path: pulp.AuditCollection, methods: get(listOf(a, a.auditEntries()))},
		{path: pulp.AuditCollection + ":id/", href: "audit_entry_href", methods: get(readOf(a, a.auditEntries()))},
	}
}
