package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
)

// Bounds of a page (contract 1.3). The reference has no largest limit; ours is far above what its clients ask for.
const (
	defaultLimit = 100
	maxLimit     = 10_000
	maxOffset    = 1 << 40
)

// resource is one kind of object, declared: where its rows come from, what they may be narrowed and sorted by, who sees them, and how they look. From it come
// the list and the reading of one.
type resource[T any] struct {
	model     string // the class that the 404 names
	list      func(*store.Store, context.Context, store.ListQuery) ([]T, int64, error)
	filters   filters
	orderings []string // beside those that all have
	order     []store.Order
	show      func(*request, []T) ([]any, error)
	// within are conditions of the path and of who asks; nil: none.
	within func(*request) ([]store.Filter, error)
	// key is the condition that the path's last parameter names one object by; nil: "id" is its UUID.
	key func(*request) (store.Filter, error)
}

// commonOrderings may sort every list.
var commonOrderings = []string{"pk", "pulp_id", "pulp_created", "pulp_last_updated"}

// each makes a show function of one that needs nothing but the object.
func each[T any](show func(T) any) func(*request, []T) ([]any, error) {
	return func(_ *request, all []T) ([]any, error) {
		shown := make([]any, len(all))
		for i, v := range all {
			shown[i] = show(v)
		}
		return shown, nil
	}
}

// page is one answer to a list.
type page struct {
	Count    int64   `json:"count"`
	Next     *string `json:"next"`
	Previous *string `json:"previous"`
	Results  []any   `json:"results"`
}

// listOf answers with a page of a resource.
func listOf[T any](a *API, r resource[T]) handler {
	return func(req *request) (answer, error) {
		where, err := scope(r, req)
		if err != nil {
			return answer{}, err
		}
		narrowed, err := r.filters.parse(a, req)
		if err != nil {
			return answer{}, err
		}
		order, err := orderOf(req.query, append(commonOrderings[:len(commonOrderings):len(commonOrderings)], r.orderings...))
		if err != nil {
			return answer{}, err
		}
		if len(order) == 0 {
			order = r.order
		}
		limit, offset := window(req.query)
		rows, count, err := r.list(a.Store, req.Context(), store.ListQuery{Where: append(where, narrowed...), Order: order, Limit: limit, Offset: offset})
		if err != nil {
			return answer{}, err
		}
		shown, err := r.show(req, rows)
		if err != nil {
			return answer{}, err
		}
		if shown, err = selectFields(req.query, shown); err != nil {
			return answer{}, err
		}
		next, previous := links(req.Request, req.query, count, limit, offset)
		return ok(page{count, next, previous, shown}), nil
	}
}

// readOf answers with one object.
func readOf[T any](a *API, r resource[T]) handler {
	return func(req *request) (answer, error) {
		v, err := one(a, r, req)
		if err != nil {
			return answer{}, err
		}
		return shownOne(r, req, v)
	}
}

func shownOne[T any](r resource[T], req *request, v T) (answer, error) {
	shown, err := r.show(req, []T{v})
	if err == nil {
		shown, err = selectFields(req.query, shown)
	}
	if err != nil {
		return answer{}, err
	}
	return ok(shown[0]), nil
}

// one finds the object that the path names. Who may not see it learns no more than that there is none.
func one[T any](a *API, r resource[T], req *request) (T, error) {
	var none T
	where, err := scope(r, req)
	if err != nil {
		return none, err
	}
	key := r.key
	if key == nil {
		key = byID
	}
	named, err := key(req)
	if err != nil {
		return none, err
	}
	rows, _, err := r.list(a.Store, req.Context(), store.ListQuery{Where: append(where, named), Limit: 1})
	if err != nil {
		return none, err
	}
	if len(rows) == 0 {
		return none, fault.New(fault.NotFound, "No %s matches the given query.", r.model)
	}
	return rows[0], nil
}

// byID is the condition that the path's "id" names.
func byID(req *request) (store.Filter, error) {
	id := req.param("id")
	if !pulp.ValidUUID(id) {
		return nil, errNotFound
	}
	return store.Where("pulp_id", store.Equal, strings.ToLower(id)), nil
}

func scope[T any](r resource[T], req *request) ([]store.Filter, error) {
	if r.within == nil {
		return nil, nil
	}
	return r.within(req)
}

// visible narrows a list to what the caller sees.
func visible(req *request) ([]store.Filter, error) {
	if req.isStaff() {
		return nil, nil
	}
	return []store.Filter{store.VisibleTo(req.user.Username)}, nil
}

// orderOf reads the parameter "ordering".
func orderOf(query url.Values, choices []string) ([]store.Order, error) {
	var order []store.Order
	for name := range commaSeparated(query["ordering"]) {
		field, desc := strings.CutPrefix(name, "-")
		if !slices.Contains(choices, field) {
			return nil, &fault.Error{Kind: fault.Invalid, Msg: "bad ordering", Fields: fault.Fields{
				"ordering": {fmt.Sprintf("Select a valid choice. %s is not one of the available choices.", name)},
			}}
		}
		if !slices.ContainsFunc(order, func(o store.Order) bool { return o.Field == field }) {
			order = append(order, store.Order{Field: field, Desc: desc})
		}
	}
	return order, nil
}

// commaSeparated yields the parts of parameters that may be repeated or hold commas.
func commaSeparated(values []string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for _, v := range values {
			for part := range strings.SplitSeq(v, ",") {
				if part = strings.TrimSpace(part); part != "" && !yield(part) {
					return
				}
			}
		}
	}
}

// window reads the parameters "limit" and "offset". Nonsense counts as not given.
func window(query url.Values) (limit, offset int) {
	limit, err := strconv.Atoi(query.Get("limit"))
	if err != nil || limit <= 0 {
		limit = defaultLimit
	}
	offset, err = strconv.Atoi(query.Get("offset"))
	if err != nil || offset < 0 {
		offset = 0
	}
	return min(limit, maxLimit), min(offset, maxOffset)
}

// links returns the absolute URLs of the pages behind and before this one; nil where there is none.
func links(r *http.Request, query url.Values, count int64, limit, offset int) (next, previous *string) {
	at := func(offset int) *string {
		q := url.Values{}
		for name, values := range query {
			q[name] = values
		}
		q.Set("limit", strconv.Itoa(limit))
		q.Set("offset", strconv.Itoa(offset))
		if offset <= 0 {
			q.Del("offset")
		}
		link := url.URL{Scheme: scheme(r), Host: r.Host, Path: r.URL.Path, RawQuery: q.Encode()}
		s := link.String()
		return &s
	}
	if int64(offset)+int64(limit) < count {
		next = at(offset + limit)
	}
	if offset > 0 {
		previous = at(offset - limit)
	}
	return next, previous
}

// scheme is what the client used, as a proxy before us tells it.
func scheme(r *http.Request) string {
	if s := r.Header.Get("X-Forwarded-Proto"); s == "http" || s == "https" {
		return s
	}
	if r.TLS != nil {
		return "https"
	}
	return "http"
}

// selectFields keeps of each object what the parameters "fields" and "exclude_fields" leave. Names that no object has are of no effect.
func selectFields(query url.Values, shown []any) ([]any, error) {
	keep, drop := map[string]bool{}, map[string]bool{}
	for name := range commaSeparated(query["fields"]) {
		keep[name] = true
	}
	for name := range commaSeparated(query["exclude_fields"]) {
		drop[name] = true
	}
	if len(keep) == 0 && len(drop) == 0 {
		return shown, nil
	}
	for i, v := range shown {
		raw, err := encode(v)
		if err != nil {
			return nil, fmt.Errorf("encode %T: %w", v, err)
		}
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(raw, &fields); err != nil {
			return nil, fmt.Errorf("decode %T: %w", v, err)
		}
		for name := range fields {
			if len(keep) > 0 && !keep[name] || drop[name] {
				delete(fields, name)
			}
		}
		shown[i] = fields
	}
	return shown, nil
}
