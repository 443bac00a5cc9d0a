// Package api serves the REST API of Pulp's container plugin under /pulp/api/v3/.
//
// Each resource has a file with its JSON form, filters, routes and handlers: repository.go, remote.go, task.go and so
// on. The files router.go, middleware.go and request.go hold the parts that all requests share; list.go and filter.go
// the machinery of lists. The packages below api/internal read bodies and queries and write responses.
//
// A handler validates the request and reads from the database. It leaves most changes to tasks, whose work is in
// tasks/jobs.
//
// docs/compatibility.md describes the API. Tests compare responses with recorded exchanges with Pulp.
package api

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/tasks"
)

// Dispatcher starts and cancels tasks. *tasks.Dispatcher implements it.
type Dispatcher interface {
	Dispatch(ctx context.Context, from tasks.Origin, spec tasks.Spec) (taskstore.Task, error)
	Cancel(ctx context.Context, id string) (taskstore.Task, error)
}

// Authenticator verifies the credentials of requests. *auth.Auth implements it.
type Authenticator interface {
	// Basic returns the user whose Basic credentials a request has; nil when it has none.
	Basic(r *http.Request) (*access.Caller, error)
}

var (
	_ Dispatcher    = (*tasks.Dispatcher)(nil)
	_ Authenticator = (*auth.Auth)(nil)
)

// Options configure an API. Store, Tasks, Auth, Log, PublicURL, Process and Version are required.
type Options struct {
	Store     *store.Store
	Tasks     Dispatcher
	Auth      Authenticator
	Access    *access.Decider // nil: one over Store, without rules for CI tokens
	Log       *slog.Logger
	Audit     *audit.Log    // nil: the entries go to Log
	Logins    *PersonLogins // nil: people cannot log in with OpenID Connect
	PublicURL *url.URL      // of clients; its host is part of registry paths (compatibility.md#public-url)
	Process   string        // <pid>@<host> of this process, for the status
	Version   string        // of this binary, for the status
	DataDir   string        // whose file system's usage the status reports; empty: the status omits it
	Upstream  bool          // whether there is an upstream registry
	SignLists bool          // the default of sign_lists (compatibility.md#signing-lists)
	// SigningUse decides which repositories may use which signing services.
	SigningUse pulp.SigningUse
	// Redis returns an error when the queue's Redis does not answer; nil: the queue is in the process.
	Redis func(context.Context) error
	// Verified receives the result of each request to verify an image; nil: nothing does.
	Verified func(Verification)
	// Ready returns an error when this process cannot do its work, for a reason other than the database; nil: it always
	// can.
	Ready func(context.Context) error
}

// API is the REST API. Make one with New.
type API struct {
	Options
	origins *auth.Origins
	allowed map[string]string // the Allow header by declared path
	open    map[string]bool   // the paths that are served without authentication
	media   map[string]media  // the media types beside JSON by declared path
	// patterns are the routes in metrics and traces, by declared path with and without the final slash.
	patterns map[string]string
}

// New returns the handler of everything under /pulp/. It panics when PublicURL is not of the form scheme://host[:port].
func New(o Options) http.Handler {
	origins, err := auth.NewOrigins(o.PublicURL)
	if err != nil {
		panic(err)
	}
	if o.Access == nil && o.Store != nil {
		o.Access = o.Store.Accounts.NewDecider(nil)
	}
	o.Audit = audit.Or(o.Audit, o.Log)
	return (&API{Options: o, origins: origins}).router()
}
