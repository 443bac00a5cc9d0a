package api

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
)

// contentGuard is the one guard that every distribution names, as clients of Pulp expect. It guards nothing: the proxy decides who may pull.
type contentGuard struct {
	object
	Name        string  `json:"name"`
	Description *string `json:"description"`
}

// guardSetting is under which name the guard is kept.
const guardSetting = "content_redirect_guard"

type keptGuard struct {
	ID      string `json:"id"`
	Created int64  `json:"created"` // microseconds since 1970
}

// guard returns the guard, making it on first use.
func (a *API) guard(ctx context.Context) (contentGuard, error) { return guardOf(ctx, a.Store) }

func guardOf(ctx context.Context, s *store.Store) (contentGuard, error) {
	raw, err := s.SettingOrCreate(ctx, guardSetting, func() ([]byte, error) {
		return json.Marshal(keptGuard{pulp.NewID(), time.Now().UnixMicro()})
	})
	if err != nil {
		return contentGuard{}, err
	}
	var kept keptGuard
	if err := json.Unmarshal(raw, &kept); err != nil {
		return contentGuard{}, fmt.Errorf("decode setting %s: %w", guardSetting, err)
	}
	made := time.UnixMicro(kept.Created)
	return contentGuard{objectOf(pulp.GuardCollection, kept.ID, pulp.Stamps{Created: made, Updated: made}), "content redirect", nil}, nil
}

func (a *API) guardRoutes() []route {
	return []route{
		{path: "contentguards/core/content_redirect/", methods: get(a.listGuards)},
		{path: "contentguards/core/content_redirect/:id/", methods: get(a.readGuard)},
	}
}

// guardNames are the filters that compare the guard's name.
var guardNames = map[string]func(name, value string) bool{
	"name":             func(name, value string) bool { return name == value },
	"name__in":         func(name, value string) bool { return slices.Contains(strings.Split(value, ","), name) },
	"name__contains":   strings.Contains,
	"name__startswith": strings.HasPrefix,
}

// listGuards lists the one guard. It is no row of a table, so its filters are decided here.
func (a *API) listGuards(req *request) (answer, error) {
	g, err := a.guard(req.Context())
	if err != nil {
		return answer{}, err
	}
	shown := []any{g}
	for name, values := range req.query {
		if slices.Contains(unfiltered, name) && name != "q" {
			continue
		}
		matches, known := guardNames[name]
		if !known {
			return answer{}, &httpError{400, map[string][]string{"errors": {fmt.Sprintf("Invalid Filter: '%s'", name)}}}
		}
		if v := last(values); v != "" && !matches(g.Name, v) {
			shown = []any{}
		}
	}
	if _, err := orderOf(req.query, append([]string{"name", "description"}, commonOrderings...)); err != nil {
		return answer{}, err
	}
	count := int64(len(shown))
	limit, offset := window(req.query)
	next, previous := links(req.Request, req.query, count, limit, offset)
	shown = shown[min(offset, len(shown)):]
	for i := range shown {
		if shown[i], err = req.selected.of(shown[i]); err != nil {
			return answer{}, err
		}
	}
	return ok(page{count, next, previous, shown}), nil
}

func (a *API) readGuard(req *request) (answer, error) {
	if !pulp.ValidUUID(req.param("id")) {
		return answer{}, errNotFound
	}
	g, err := a.guard(req.Context())
	if err != nil {
		return answer{}, err
	}
	if g.Href != pulp.Href(pulp.GuardCollection, strings.ToLower(req.param("id"))) {
		return answer{}, fault.New(fault.NotFound, "No ContentRedirectContentGuard matches the given query.")
	}
	shown, err := req.selected.of(g)
	return ok(shown), err
}
