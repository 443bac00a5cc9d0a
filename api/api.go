// Package api serves the REST API that Pulp's container plugin speaks, under /pulp/api/v3/: one file a resource, one machinery for lists.
//
// It validates what it is asked, reads through internal/store and hands every change to a task; what tasks do is in tasks/jobs. It alone imports
// gin. Which words, texts and statuses are right is the contract with Pulp's clients; tests hold the answers against recorded ones.
package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/telemetry"
	"github.com/countersign/countersign/tasks"
)

// Dispatcher makes and cancels tasks: *tasks.Dispatcher.
type Dispatcher interface {
	Dispatch(ctx context.Context, from tasks.Origin, spec tasks.Spec) (store.Task, error)
	Cancel(ctx context.Context, id string) (store.Task, error)
}

// Authenticator says who makes a request: *auth.Auth. The user is nil when the request carries no credentials.
type Authenticator interface {
	Basic(r *http.Request) (*pulp.User, error)
}

var (
	_ Dispatcher    = (*tasks.Dispatcher)(nil)
	_ Authenticator = (*auth.Auth)(nil)
)

// Options are what the API is built from. All but DataDir, Ready, SignLists and SigningUse are needed.
type Options struct {
	Store     *store.Store
	Tasks     Dispatcher
	Auth      Authenticator
	Log       *slog.Logger
	PublicURL *url.URL // what clients type; its host stands in registry paths (D5)
	Process   string   // this process, as <pid>@<host>, in the status
	Version   string   // of this binary, in the status
	DataDir   string   // where the status looks for free space; empty: it says nothing about it
	Upstream  bool     // whether there is an upstream registry
	SignLists bool     // whether signing signs lists and indexes too, when the call does not say (D2)
	// SigningUse decides which repositories may use which signing services.
	SigningUse pulp.SigningUse
	// Redis says whether the queue's Redis answers; nil: the queue is in the process.
	Redis func(context.Context) error
	// Ready says whether this process can do its work, beside the database; nil: it can.
	Ready func(context.Context) error
}

// API is the REST API. Make one with New.
type API struct {
	Options
	engine  *gin.Engine
	routes  []route
	origins *auth.Origins
}

// route is one path with what may be done there.
type route struct {
	path    string // behind pulp.Root; segments beginning with a colon are parameters
	methods map[string]handler
	open    bool // anonymous callers may come
}

// New returns the handler of everything under /pulp/. It panics when PublicURL is no scheme://host[:port].
func New(o Options) http.Handler {
	gin.SetMode(gin.ReleaseMode) // or gin prints its routes; no other package uses it
	origins, err := auth.NewOrigins(o.PublicURL)
	if err != nil {
		panic(err)
	}
	a := &API{Options: o, engine: gin.New(), origins: origins}
	a.engine.RedirectTrailingSlash = false
	a.engine.RedirectFixedPath = false
	a.engine.HandleMethodNotAllowed = false
	a.routes = a.allRoutes()
	for _, r := range a.routes {
		a.engine.Any(pulp.Root+r.path, a.serve(r))
	}
	a.engine.NoRoute(a.noRoute)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if telemetry.Correlation(r.Context()) == "" {
			telemetry.Correlate(a.engine).ServeHTTP(w, r)
			return
		}
		a.engine.ServeHTTP(w, r)
	})
}

func (a *API) allRoutes() []route {
	routes := []route{
		{path: "status/", methods: get(a.status), open: true},
		{path: "livez/", methods: get(a.live), open: true},
		{path: "readyz/", methods: get(a.ready), open: true},
	}
	for _, more := range [][]route{
		a.taskRoutes(), a.workerRoutes(), a.signingServiceRoutes(), a.repositoryRoutes(), a.versionRoutes(), a.remoteRoutes(), a.distributionRoutes(),
		a.namespaceRoutes(), a.guardRoutes(), a.contentRoutes(), a.taskGroupRoutes(), a.orphanRoutes(), a.upstreamRoutes(),
	} {
		routes = append(routes, more...)
	}
	return routes
}

func get(h handler) map[string]handler { return map[string]handler{http.MethodGet: h} }

// methodOrder is the order of the Allow header on the reference.
var methodOrder = []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}

// allow returns a route's Allow header.
func (r route) allow() string {
	var allowed []string
	for _, m := range methodOrder {
		if _, ok := r.methods[m]; ok {
			allowed = append(allowed, m)
		}
	}
	if _, ok := r.methods[http.MethodGet]; ok {
		allowed = append(allowed, http.MethodHead)
	}
	return strings.Join(append(allowed, http.MethodOptions), ", ")
}

// serve runs a route's handlers with what all have in common, in the reference's order: headers, the Accept header, who it is, the method.
func (a *API) serve(r route) gin.HandlerFunc {
	allow := r.allow()
	return func(c *gin.Context) {
		defer a.recovered(c)
		commonHeaders(c.Writer.Header())
		c.Header("Allow", allow)
		ans, err := a.answer(r, c)
		if err != nil {
			ans = a.failure(c.Request, err)
		}
		a.send(c, ans)
	}
}

func (a *API) answer(r route, c *gin.Context) (answer, error) {
	if err := acceptsJSON(c.Request); err != nil {
		return answer{}, err
	}
	if !a.origins.Allows(c.Request) {
		return answer{}, &httpError{http.StatusForbidden, detail(auth.OtherOrigin)}
	}
	req, err := a.identify(r, c)
	if err != nil {
		return answer{}, err
	}
	method := c.Request.Method
	switch h, ok := r.methods[method]; {
	case ok:
		return h(req)
	case method == http.MethodHead && r.methods[http.MethodGet] != nil:
		return r.methods[http.MethodGet](req) // net/http leaves the body out
	case method == http.MethodOptions:
		return answer{status: http.StatusOK, body: struct{}{}}, nil
	}
	return answer{}, methodNotAllowed(method)
}

// commonHeaders are on every answer (contract 1.1).
func commonHeaders(h http.Header) {
	h.Set("Vary", "Accept")
	h.Set("Access-Control-Expose-Headers", telemetry.CorrelationHeader)
	h.Set("X-Frame-Options", "DENY")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
}

// noRoute sends a path that lacks only its closing slash to the path that has it. Methods that gin has no tree for come here too; the rest is 404.
func (a *API) noRoute(c *gin.Context) {
	path := c.Request.URL.Path
	if r, ok := a.find(path); ok {
		a.serve(r)(c)
		return
	}
	commonHeaders(c.Writer.Header())
	if _, ok := a.find(path + "/"); ok {
		location := url.URL{Path: path + "/", RawQuery: c.Request.URL.RawQuery}
		c.Header("Location", location.String())
		a.write(c.Writer, answer{status: http.StatusMovedPermanently})
		return
	}
	a.write(c.Writer, a.failure(c.Request, errNotFound))
}

// find returns the route of a path.
func (a *API) find(path string) (route, bool) {
	have := strings.Split(path, "/")
	for _, r := range a.routes {
		want := strings.Split(pulp.Root+r.path, "/")
		if slices.EqualFunc(want, have, func(w, h string) bool { return w == h || strings.HasPrefix(w, ":") && h != "" }) {
			return r, true
		}
	}
	return route{}, false
}

// recovered turns a panic into a 500 and a line in the log.
func (a *API) recovered(c *gin.Context) {
	p := recover()
	if p == nil {
		return
	}
	if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(p)
	}
	a.Log.ErrorContext(c.Request.Context(), "panic in the API", slog.Any("panic", p), slog.String("path", c.Request.URL.Path))
	if !c.Writer.Written() {
		a.write(c.Writer, answer{status: http.StatusInternalServerError, body: detail("Internal server error.")})
	}
}
