package api

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/api/internal/query"
	"github.com/countersign/countersign/api/internal/reply"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
)

// contentGuard is the only content guard. Every distribution names it, since clients of Pulp expect one; it has no
// effect (compatibility.md#artifacts-and-guards).
type contentGuard struct {
	object
	Name        string  `json:"name"`
	Description *string `json:"description"`
}

// guardSetting is the key of the guard's identity in the database.
const guardSetting = "content_redirect_guard"

// guardIdentity is the stored form of the guard.
type guardIdentity struct {
	ID      string `json:"id"`
	Created int64  `json:"created"` // in microseconds since 1970
}

// guard returns the content guard. The first call creates its identity.
func (a *API) guard(ctx context.Context) (contentGuard, error) { return guardOf(ctx, a.Store) }

func guardOf(ctx context.Context, s *store.Store) (contentGuard, error) {
	raw, err := s.DB.SettingOrCreate(ctx, guardSetting, func() ([]byte, error) {
		return json.Marshal(guardIdentity{pulp.NewID(), time.Now().UnixMicro()})
	})
	if err != nil {
		return contentGuard{}, err
	}
	var stored guardIdentity
	if err := json.Unmarshal(raw, &stored); err != nil {
		return contentGuard{}, fmt.Errorf("decode setting %s: %w", guardSetting, err)
	}
	created := time.UnixMicro(stored.Created)
	common := objectOf(pulp.GuardCollection, stored.ID, pulp.Stamps{Created: created, Updated: created})
	return contentGuard{common, "content redirect", nil}, nil
}

func (a *API) guardRoutes() []route {
	return []route{
		{path: "contentguards/", methods: get(listed(a.listGuards, contentGuard{}, guardOrderings, slices.Sorted(maps.Keys(guardFilters))))},
		{path: pulp.GuardCollection, methods: get(listed(a.listGuards, contentGuard{}, guardOrderings, slices.Sorted(maps.Keys(guardFilters))))},
		{path: pulp.GuardCollection + ":id/", href: "content_redirect_content_guard_href", methods: get(operation{
			verb: "read", handle: a.readGuard, query: selection(), replies: replies{http.StatusOK: selected{contentGuard{}}},
		})},
	}
}

var guardOrderings = append([]string{"name", "description", "pulp_type"}, commonOrderings...)

// guardType is the type of the guard in the list of guards of all types.
const guardType = "core.content_redirect"

// guardFilters are the filters of the lists of guards.
var guardFilters = map[string]func(g contentGuard, value string) bool{
	"name":              func(g contentGuard, v string) bool { return g.Name == v },
	"name__in":          func(g contentGuard, v string) bool { return slices.Contains(strings.Split(v, ","), g.Name) },
	"name__iexact":      func(g contentGuard, v string) bool { return strings.EqualFold(g.Name, v) },
	"name__contains":    func(g contentGuard, v string) bool { return strings.Contains(g.Name, v) },
	"name__icontains":   func(g contentGuard, v string) bool { return strings.Contains(g.Name, strings.ToLower(v)) },
	"name__startswith":  func(g contentGuard, v string) bool { return strings.HasPrefix(g.Name, v) },
	"name__istartswith": func(g contentGuard, v string) bool { return strings.HasPrefix(g.Name, strings.ToLower(v)) },
	"pulp_type":         func(_ contentGuard, v string) bool { return v == guardType },
	"pulp_type__in":     func(_ contentGuard, v string) bool { return slices.Contains(strings.Split(v, ","), guardType) },
	"pulp_href__in":     func(g contentGuard, v string) bool { return slices.Contains(strings.Split(v, ","), g.Href) },
	"prn__in":           func(g contentGuard, v string) bool { return slices.Contains(strings.Split(v, ","), g.PRN) },
}

// listGuards lists the content guard, in its collection and among the guards of all types. The guard is not a row of a
// table, so its filters do not use the list machinery.
func (a *API) listGuards(req *request) (reply.Reply, error) {
	g, err := a.guard(req.Context())
	if err != nil {
		return reply.Reply{}, err
	}
	shown := []any{g}
	for name, values := range req.query {
		if slices.Contains(notFilters, name) && name != "q" {
			continue
		}
		matches, known := guardFilters[name]
		if !known {
			return reply.Reply{}, reply.BadQuery("Invalid Filter: '%s'", name)
		}
		if v := query.Last(values); v != "" && !matches(g, v) {
			shown = []any{}
		}
	}
	if _, err := query.Order(req.query, guardOrderings); err != nil {
		return reply.Reply{}, err
	}
	p := query.PageOf(req.query)
	count := int64(len(shown))
	next, previous := p.Links(req.Request, req.query, count)
	shown = shown[min(p.Offset, len(shown)):]
	for i := range shown {
		if shown[i], err = req.selected.Of(shown[i]); err != nil {
			return reply.Reply{}, err
		}
	}
	return reply.OK(page{count, next, previous, shown}), nil
}

func (a *API) readGuard(req *request) (reply.Reply, error) {
	if !pulp.ValidUUID(req.param("id")) {
		return reply.Reply{}, reply.ErrNotFound
	}
	g, err := a.guard(req.Context())
	if err != nil {
		return reply.Reply{}, err
	}
	if g.Href != pulp.Href(pulp.GuardCollection, strings.ToLower(req.param("id"))) {
		return reply.Reply{}, fault.New(fault.NotFound, "No ContentRedirectContentGuard matches the given query.")
	}
	shown, err := req.selected.Of(g)
	return reply.OK(shown), err
}
