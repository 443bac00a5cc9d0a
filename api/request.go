package api

import (
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/countersign/countersign/api/internal/query"
	"github.com/countersign/countersign/api/internal/reply"
	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/tasks"
)

// handler answers a request. It returns the response or an error and writes nothing itself.
type handler func(*request) (reply.Reply, error)

// request is an HTTP request with its caller.
type request struct {
	*http.Request
	caller   *access.Caller // nil on open routes
	user     *pulp.User     // the account of caller
	query    url.Values
	selected query.Selection
	param    func(string) string // returns a parameter of the path
	log      *slog.Logger
	viewer   **access.Viewer // of the caller; nil: not read yet

	verifying time.Duration // spent on verifying signatures so far

	noted []note // changes for the audit log
}

// note is a change that a handler has made or started.
type note struct {
	entry   audit.Entry
	details []slog.Attr
}

// administers reports whether the caller has the rights of an administrator.
func (r *request) administers() bool {
	return access.Allow(r.caller, access.Administer, access.OfServer())
}

// requireAdministrator returns an error unless the caller has the rights of an administrator.
func (r *request) requireAdministrator() error {
	if !r.administers() {
		return errDenied
	}
	return nil
}

var errDenied = fault.New(fault.Denied, "You do not have permission to perform this action.")

// audit notes a change for the audit log, whose entry is written before the response is sent: the action, named as by
// auditAction, and the object.
func (r *request) audit(action, object string, attrs ...slog.Attr) {
	r.noted = append(r.noted, note{audit.Entry{Action: action, Object: object, Result: audit.Done}, attrs})
}

// created responds with an object that has been created, and notes the change with its details for the audit log.
func created(req *request, action string, shown any, href string, details ...slog.Attr) reply.Reply {
	req.audit(action, href, details...)
	return reply.Reply{Status: http.StatusCreated, Body: shown, Header: http.Header{"Location": {href}}}
}

// dispatch starts a task for the caller, notes that for the audit log, and responds with the task.
func (a *API) dispatch(req *request, action, object string, spec tasks.Spec) (reply.Reply, error) {
	t, err := a.Tasks.Dispatch(req.Context(), tasks.ByUser(req.user.ID), spec)
	if err != nil {
		return reply.Reply{}, err
	}
	req.audit(action, object, slog.String("task", t.ID))
	return reply.Reply{Status: http.StatusAccepted, Body: map[string]string{"task": pulp.Href(pulp.TaskCollection, t.ID)}}, nil
}

// deleteObject starts a task that deletes an object and reserves only that.
func (a *API) deleteObject(req *request, action, collection, id string) (reply.Reply, error) {
	href := pulp.Href(collection, id)
	return a.dispatch(req, action, href, tasks.Spec{
		Name: tasks.Delete, Args: tasks.ObjectArgs{Collection: collection, ID: id}, Immediate: true,
		Resources: []taskstore.Resource{{Href: href, Exclusive: true}},
	})
}
