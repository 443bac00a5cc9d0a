package api

import (
	"net/http"
	"slices"
	"strings"

	"github.com/countersign/countersign/api/internal/body"
	"github.com/countersign/countersign/api/internal/openapi"
	"github.com/countersign/countersign/api/internal/timestamp"
)

// operation is a handler with its declaration for the OpenAPI document. Errors that every operation can return follow
// from its route; see failures.
type operation struct {
	handle handler
	// verb ends the operationId, after the segments of the path: "list", "read", "create", "update", "partial_update" or
	// "delete"; empty for actions, which the last segment names.
	verb    string
	summary string // empty: the name of the operation in the audit log
	query   []openapi.Parameter
	body    body.Form // nil: it reads no body
	replies replies
	fails   []int // further statuses of errors
}

// replies are the bodies of successful responses by status: values of the types of the bodies, or schemas; nil for an
// empty body.
type replies map[int]any

// selected marks the form of an object of which the parameters "fields" and "exclude_fields" select members.
type selected struct{ form any }

// pageOf marks the page of a list whose results have a form.
type pageOf struct{ form any }

// taskReply is the response of operations that start a task.
type taskReply struct {
	Task string `json:"task"`
}

// startsTask is the response of operations that start a task.
var startsTask = replies{http.StatusAccepted: taskReply{}}

// deletes is the response of operations that delete an object without a task.
var deletes = replies{http.StatusNoContent: nil}

// selection are the parameters that select members of the shown objects.
func selection() []openapi.Parameter {
	return []openapi.Parameter{
		openapi.InQuery("fields", "The members to show of each object.", openapi.List(openapi.Text())),
		openapi.InQuery("exclude_fields", "The members not to show.", openapi.List(openapi.Text())),
	}
}

// paging are the parameters that select a part of a list.
func paging() []openapi.Parameter {
	return []openapi.Parameter{
		openapi.InQuery("limit", "The number of results of a page.", openapi.Integer()),
		openapi.InQuery("offset", "The index of the first result.", openapi.Integer()),
	}
}

// ordering is the parameter that selects the order of a list.
func ordering(possible []string) openapi.Parameter {
	var choices []string
	for _, name := range possible {
		choices = append(choices, name, "-"+name)
	}
	return openapi.InQuery("ordering", "The fields to sort by, each with - for descending order.",
		openapi.List(openapi.Choice(choices...)))
}

// action returns an action with a body that starts a task.
func action(h handler, form body.Form) operation {
	return operation{handle: h, body: form, replies: startsTask}
}

// listed returns a list that does not use the list machinery, with filters that take a text, or several if their names
// end with "__in".
func listed(h handler, form any, orderings, filters []string) operation {
	var query []openapi.Parameter
	for _, name := range filters {
		s := openapi.Text()
		if strings.HasSuffix(name, "__in") {
			s = openapi.List(s)
		}
		query = append(query, openapi.InQuery(name, "", s))
	}
	return operation{
		verb: "list", handle: h, replies: replies{http.StatusOK: pageOf{form}},
		query: slices.Concat(query, paging(), []openapi.Parameter{ordering(orderings)}, selection()),
	}
}

// create returns an operation that creates an object.
func create(h handler, form body.Form, with replies) operation {
	return operation{verb: "create", handle: h, body: form, replies: with}
}

// update returns an operation that changes an object with the whole body. fails are further statuses of errors, as of the
// functions below.
func update(h handler, form body.Form, with replies, fails ...int) operation {
	return operation{verb: "update", handle: h, body: form, query: selection(), replies: with, fails: fails}
}

// partialUpdate returns an operation that changes an object with some fields.
func partialUpdate(h handler, form body.Form, with replies, fails ...int) operation {
	return operation{verb: "partial_update", handle: h, body: form.Partial(), query: selection(), replies: with, fails: fails}
}

// remove returns an operation that deletes an object.
func remove(h handler, with replies, fails ...int) operation {
	return operation{verb: "delete", handle: h, replies: with, fails: fails}
}

// edits are the replies of operations that edit an object of a resource with a task, unless nothing changes.
func (r resource[T]) edits() replies {
	return replies{http.StatusOK: selected{r.form}, http.StatusAccepted: taskReply{}}
}

// creates are the replies of operations that create an object of a resource.
func (r resource[T]) creates() replies { return replies{http.StatusCreated: r.form} }

// changes are the replies of operations that change an object of a resource.
func (r resource[T]) changes() replies { return replies{http.StatusOK: selected{r.form}} }

// failures returns the statuses of errors of an operation.
func (o operation) failures(r route) []int {
	all := []int{http.StatusBadRequest, http.StatusForbidden, http.StatusNotAcceptable, http.StatusServiceUnavailable}
	if !r.open {
		all = append(all, http.StatusUnauthorized, http.StatusTooManyRequests)
	}
	if strings.Contains(r.path, ":") {
		all = append(all, http.StatusNotFound)
	}
	if o.body != nil {
		all = append(all, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType)
	}
	return append(all, o.fails...)
}

var _ openapi.Schemer = timestamp.Time{}
