package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
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
	model     string         // the class that the 404 names
	list      *store.List[T] // nil: there is never a row
	filters   filters
	orderings []string // beside those that all have
	order     []store.Order
	show      func(*request, []T) ([]any, error) // called for some rows at a time
	// within are conditions of the path and of who asks; nil: none.
	within func(*request) ([]store.Filter, error)
	// brief reports whether a request asks for objects without any large data; nil: none does.
	brief func(*request) bool
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

// page is one answer to a list, where all of it is at hand.
type page struct {
	Count    int64   `json:"count"`
	Next     *string `json:"next"`
	Previous *string `json:"previous"`
	Results  []any   `json:"results"`
}

// listOf answers with a page of a resource. The rows are read, shown and written some at a time.
func listOf[T any](a *API, r resource[T]) handler {
	return func(req *request) (answer, error) {
		want, err := queryOf(a, r, req)
		if err != nil {
			return answer{}, err
		}
		found := &store.Found[T]{}
		if r.list != nil {
			if found, err = r.list.Find(req.Context(), a.Store, want); err != nil {
				return answer{}, err
			}
		}
		next, previous := links(req.Request, req.query, found.Count, want.Limit, want.Offset)
		return answer{status: http.StatusOK, stream: func(w io.Writer) error {
			return writePage(w, r, req, found, page{Count: found.Count, Next: next, Previous: previous, Results: []any{}})
		}}, nil
	}
}

// queryOf reads the parameters of a list.
func queryOf[T any](a *API, r resource[T], req *request) (store.ListQuery, error) {
	where, err := scope(r, req)
	if err != nil {
		return store.ListQuery{}, err
	}
	narrowed, err := r.filters.parse(a, req)
	if err != nil {
		return store.ListQuery{}, err
	}
	order, err := orderOf(req.query, append(commonOrderings[:len(commonOrderings):len(commonOrderings)], r.orderings...))
	if err != nil {
		return store.ListQuery{}, err
	}
	if len(order) == 0 {
		order = r.order
	}
	limit, offset := window(req.query)
	want := store.ListQuery{Where: append(where, narrowed...), Order: order, Limit: limit, Offset: offset, Wanted: req.selected.has}
	if r.brief != nil && r.brief(req) {
		want.Wanted = func(string) bool { return false }
	}
	return want, nil
}

// writePage writes a page as JSON. The results of the page are those that were found.
func writePage[T any](w io.Writer, r resource[T], req *request, found *store.Found[T], p page) error {
	envelope, err := encode(p)
	if err != nil {
		return err
	}
	if _, err := w.Write(bytes.TrimSuffix(envelope, []byte("]}"))); err != nil {
		return err
	}
	between := ""
	for piece, err := range found.Pieces(req.Context()) {
		if err != nil {
			return err
		}
		shown, err := r.show(req, piece)
		if err != nil {
			return err
		}
		for _, v := range shown {
			if v, err = req.selected.of(v); err != nil {
				return err
			}
			raw, err := encode(v)
			if err != nil {
				return fmt.Errorf("encode %T: %w", v, err)
			}
			if _, err := io.WriteString(w, between); err != nil {
				return err
			}
			if _, err := w.Write(raw); err != nil {
				return err
			}
			between = ","
		}
	}
	_, err = io.WriteString(w, "]}")
	return err
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
	if err != nil {
		return answer{}, err
	}
	only, err := req.selected.of(shown[0])
	return ok(only), err
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
	var rows []T
	if r.list != nil {
		rows, _, err = r.list.Rows(req.Context(), a.Store, store.ListQuery{Where: append(where, named), Limit: 1})
	}
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
	names, err := commaSeparated("ordering", query["ordering"])
	if err != nil {
		return nil, err
	}
	var order []store.Order
	for _, name := range names {
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

// maxValues is how many values one parameter of a list may have.
const maxValues = 1000

// commaSeparated returns the parts of a parameter that may be repeated or hold commas. More than maxValues are refused.
func commaSeparated(name string, values []string) ([]string, error) {
	var parts []string
	for _, v := range values {
		for part := range strings.SplitSeq(v, ",") {
			if part = strings.TrimSpace(part); part == "" {
				continue
			}
			if len(parts) == maxValues {
				return nil, invalid(name, "At most %d values are possible.", maxValues)
			}
			parts = append(parts, part)
		}
	}
	return parts, nil
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

// selection is what the parameters "fields" and "exclude_fields" leave of each object. Names that no object has are of no effect.
type selection struct{ keep, drop map[string]bool }

// selectionOf reads the parameters.
func selectionOf(query url.Values) (selection, error) {
	var s selection
	for name, into := range map[string]*map[string]bool{"fields": &s.keep, "exclude_fields": &s.drop} {
		fields, err := commaSeparated(name, query[name])
		if err != nil {
			return s, err
		}
		*into = make(map[string]bool, len(fields))
		for _, field := range fields {
			(*into)[field] = true
		}
	}
	return s, nil
}

// has reports whether a field is shown.
func (s selection) has(field string) bool {
	return (len(s.keep) == 0 || s.keep[field]) && !s.drop[field]
}

// any reports whether one of some fields is shown.
func (s selection) any(fields ...string) bool { return slices.ContainsFunc(fields, s.has) }

// of returns what is shown of an object.
func (s selection) of(object any) (any, error) {
	if len(s.keep) == 0 && len(s.drop) == 0 {
		return object, nil
	}
	raw, err := encode(object)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", object, err)
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, fmt.Errorf("decode %T: %w", object, err)
	}
	maps.DeleteFunc(fields, func(name string, _ json.RawMessage) bool { return !s.has(name) })
	return fields, nil
}
