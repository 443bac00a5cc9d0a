package api

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/countersign/countersign/api/internal/openapi"
	"github.com/countersign/countersign/api/internal/query"
	"github.com/countersign/countersign/api/internal/reply"
	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/list"
)

// resource declares a kind of object: the source of its rows, its filters and orderings, its visibility and its JSON
// form. listOf and readOf make the handlers of its list and of one object.
type resource[T any] struct {
	model     string        // Pulp's class, which errors name
	list      *list.List[T] // nil: the list is always empty
	form      any           // a value of the type that show returns
	filters   filters
	orderings []string     // beside commonOrderings
	order     []list.Order // the default
	// show returns the JSON forms of some rows. A list calls it for each piece of its page.
	show func(*request, []T) ([]any, error)
	// within returns conditions that follow from the path and the caller; nil: none.
	within func(*request) ([]list.Filter, error)
	// brief reports whether a request asks for objects without large fields; nil: it never does.
	brief func(*request) bool
	// key returns the condition for the object that the path names; nil: "id" is its UUID.
	key func(*request) (list.Filter, error)
	// object returns the object of actions, and its id, if lists show objects that the caller may not view; nil: they do
	// not.
	object func(T) (access.Object, string)
}

// commonOrderings are orderings of every list.
var commonOrderings = []string{"pk", "pulp_id", "pulp_created", "pulp_last_updated"}

// allOrderings returns the possible fields of the parameter "ordering".
func (r resource[T]) allOrderings() []string { return slices.Concat(commonOrderings, r.orderings) }

// showEach returns a show function for objects that are shown one by one.
func showEach[T any](show func(T) any) func(*request, []T) ([]any, error) {
	return func(_ *request, all []T) ([]any, error) {
		shown := make([]any, len(all))
		for i, v := range all {
			shown[i] = show(v)
		}
		return shown, nil
	}
}

// page is the body of a list.
type page struct {
	Count    int64   `json:"count"`
	Next     *string `json:"next"`
	Previous *string `json:"previous"`
	Results  []any   `json:"results"`
}

// listOf returns the list of a resource.
func listOf[T any](a *API, r resource[T]) operation {
	return operation{
		verb: "list", handle: listHandler(a, r), replies: replies{http.StatusOK: pageOf{r.form}},
		query: slices.Concat(r.filters.parameters(), paging(), []openapi.Parameter{ordering(r.allOrderings())}, selection()),
	}
}

// listHandler returns the handler of a resource's list. It reads, shows and writes the rows of a page in pieces.
func listHandler[T any](a *API, r resource[T]) handler {
	return func(req *request) (reply.Reply, error) {
		q, err := listQuery(a, r, req)
		if err != nil {
			return reply.Reply{}, err
		}
		found := &list.Found[T]{}
		if r.list != nil {
			if found, err = r.list.Find(req.Context(), a.Store.Lists, q); err != nil {
				return reply.Reply{}, err
			}
		}
		next, previous := query.Page{Limit: q.Limit, Offset: q.Offset}.Links(req.Request, req.query, found.Count)
		return reply.Reply{Status: http.StatusOK, Stream: func(w io.Writer) error {
			return writePage(w, r, req, found, page{Count: found.Count, Next: next, Previous: previous, Results: []any{}})
		}}, nil
	}
}

// listQuery reads the parameters of a list.
func listQuery[T any](a *API, r resource[T], req *request) (list.Query, error) {
	where, err := scope(r, req)
	if err != nil {
		return list.Query{}, err
	}
	filtered, err := r.filters.parse(a, req)
	if err != nil {
		return list.Query{}, err
	}
	order, err := query.Order(req.query, r.allOrderings())
	if err != nil {
		return list.Query{}, err
	}
	if len(order) == 0 {
		order = r.order
	}
	p := query.PageOf(req.query)
	q := list.Query{
		Where: append(where, filtered...), Order: order, Limit: p.Limit, Offset: p.Offset, Wanted: req.selected.Has,
	}
	if r.brief != nil && r.brief(req) {
		q.Wanted = func(string) bool { return false }
	}
	return q, nil
}

// writePage writes a page as JSON. Its results are the found rows; p has none.
func writePage[T any](w io.Writer, r resource[T], req *request, found *list.Found[T], p page) error {
	envelope, err := reply.Encode(p)
	if err != nil {
		return err
	}
	if _, err := w.Write(bytes.TrimSuffix(envelope, []byte("]}"))); err != nil {
		return err
	}
	separator := ""
	for piece, err := range found.Pieces(req.Context()) {
		if err != nil {
			return err
		}
		shown, err := r.show(req, piece)
		if err != nil {
			return err
		}
		for _, v := range shown {
			if v, err = req.selected.Of(v); err != nil {
				return err
			}
			raw, err := reply.Encode(v)
			if err != nil {
				return fmt.Errorf("encode %T: %w", v, err)
			}
			if _, err := io.WriteString(w, separator); err != nil {
				return err
			}
			if _, err := w.Write(raw); err != nil {
				return err
			}
			separator = ","
		}
	}
	_, err = io.WriteString(w, "]}")
	return err
}

// readOf returns the operation that reads one object of a resource.
func readOf[T any](a *API, r resource[T]) operation {
	read := func(req *request) (reply.Reply, error) {
		v, err := permitted(a, r, req, access.View)
		if err != nil {
			return reply.Reply{}, err
		}
		return showOne(r, req, v)
	}
	return operation{verb: "read", handle: read, query: selection(), replies: r.changes()}
}

// showOne responds with one object.
func showOne[T any](r resource[T], req *request, v T) (reply.Reply, error) {
	shown, err := r.show(req, []T{v})
	if err != nil {
		return reply.Reply{}, err
	}
	selected, err := req.selected.Of(shown[0])
	return reply.OK(selected), err
}

// findByPath returns the object that the path names. An object that the caller may not see is not found.
func findByPath[T any](a *API, r resource[T], req *request) (T, error) {
	key := r.key
	if key == nil {
		key = byID
	}
	return find(a, r, req, func() (list.Filter, error) { return key(req) })
}

// permitted returns the object that the path names, if the caller may view it and perform an action on it. The error is
// NotFound if the caller does not see it in lists, and Denied if it is public.
func permitted[T any](a *API, r resource[T], req *request, action access.Action) (T, error) {
	v, err := findByPath(a, r, req)
	switch {
	case err != nil:
		return v, err
	case r.object == nil && action == access.View:
		return v, nil
	case r.object == nil:
		return v, errDenied
	}
	on, id := r.object(v)
	ok, err := a.Access.AllowAll(req.Context(), req.caller, on, id, access.View, action)
	if err == nil && !ok {
		err = errDenied
	}
	return v, err
}

// findByID returns the object with an id. An object that the caller may not see is not found.
func findByID[T any](a *API, r resource[T], req *request, id string) (T, error) {
	return find(a, r, req, func() (list.Filter, error) { return list.Where("pulp_id", list.Equal, id), nil })
}

// find returns the first object that satisfies a condition. It evaluates the scope of the resource before the
// condition.
func find[T any](a *API, r resource[T], req *request, key func() (list.Filter, error)) (T, error) {
	var none T
	where, err := scope(r, req)
	if err != nil {
		return none, err
	}
	condition, err := key()
	if err != nil {
		return none, err
	}
	var rows []T
	if r.list != nil {
		rows, _, err = r.list.Rows(req.Context(), a.Store.Lists, list.Query{Where: append(where, condition), Limit: 1})
	}
	if err != nil {
		return none, err
	}
	if len(rows) == 0 {
		return none, fault.New(fault.NotFound, "No %s matches the given query.", r.model)
	}
	return rows[0], nil
}

// byID returns the condition for the object whose UUID the path has as "id".
func byID(req *request) (list.Filter, error) {
	id := req.param("id")
	if !pulp.ValidUUID(id) {
		return nil, reply.ErrNotFound
	}
	return list.Where("pulp_id", list.Equal, strings.ToLower(id)), nil
}

func scope[T any](r resource[T], req *request) ([]list.Filter, error) {
	if r.within == nil {
		return nil, nil
	}
	return r.within(req)
}

// visible returns the condition for objects that the caller sees in lists; administrators see all.
func (a *API) visible(req *request) ([]list.Filter, error) {
	viewer, err := a.viewer(req)
	if err != nil || viewer == nil {
		return nil, err
	}
	return []list.Filter{list.VisibleTo(viewer)}, nil
}

// viewer returns the restriction of queries to the objects that the caller sees; nil for administrators.
func (a *API) viewer(req *request) (*access.Viewer, error) {
	if req.viewer == nil {
		viewer, err := a.Access.Viewer(req.Context(), req.caller)
		if err != nil {
			return nil, err
		}
		req.viewer = &viewer
	}
	return *req.viewer, nil
}
