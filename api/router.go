package api

import (
	"cmp"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/countersign/countersign/api/internal/reply"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/telemetry"
)

// route declares the handlers of one path.
type route struct {
	// path is below pulp.Root. It has a slash at the end, except those of files. A segment that begins with a colon is a
	// parameter.
	path    string
	methods map[string]operation
	open    bool  // served without authentication; for paths without parameters only
	media   media // of the responses beside JSON, which the Accept header may request; empty for most routes
	// href is Pulp's name for the href of the object that the path names, in the paths of the OpenAPI document; empty for
	// collections and actions.
	href string
}

// parameter matches a parameter in the path of a route.
var parameter = regexp.MustCompile(`:([a-z_]+)`)

func get(o operation) map[string]operation  { return map[string]operation{http.MethodGet: o} }
func post(o operation) map[string]operation { return map[string]operation{http.MethodPost: o} }

// routedMethods are the methods that the router knows, in the order of Pulp's Allow header. Every path answers
// OPTIONS, and HEAD where it answers GET.
var routedMethods = []string{
	http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodHead, http.MethodOptions,
}

// handler returns the handler of a method; nil where the route has none.
func (r route) handler(method string) handler {
	switch method {
	case http.MethodHead:
		return r.methods[http.MethodGet].handle // net/http omits the body
	case http.MethodOptions:
		return func(*request) (reply.Reply, error) { return reply.OK(struct{}{}), nil }
	}
	return r.methods[method].handle
}

// allow returns the route's Allow header.
func (r route) allow() string {
	allowed := slices.DeleteFunc(slices.Clone(routedMethods), func(m string) bool { return r.handler(m) == nil })
	return strings.Join(allowed, ", ")
}

// declaredRoutes returns the routes of all resources.
func (a *API) declaredRoutes() []route {
	return slices.Concat(
		a.statusRoutes(), a.taskRoutes(), a.taskGroupRoutes(), a.workerRoutes(), a.signingServiceRoutes(),
		a.repositoryRoutes(), a.versionRoutes(), a.remoteRoutes(), a.distributionRoutes(),
		a.pullThroughRemoteRoutes(), a.pullThroughRoutes(), a.namespaceRoutes(),
		a.guardRoutes(), a.contentRoutes(), a.artifactRoutes(), a.maintenanceRoutes(), a.orphanRoutes(), a.upstreamRoutes(), a.auditRoutes(),
		a.userRoutes(), a.groupRoutes(), a.roleRoutes(), a.objectRoleRoutes(), a.assignedRoleRoutes(), a.accessPolicyRoutes(),
		a.loginRoutes(), a.tokenRoutes(), a.robotRoutes(), a.webhookRoutes(), a.docsRoutes(),
	)
}

// router returns a router for all declared routes.
//
// Requests to a declared path are checked in Pulp's order: Accept header, origin, query, credentials, method.
// Requests to any other path are answered with 404, or with a redirect when only the final slash is missing, without
// these checks.
func (a *API) router() *gin.Engine {
	gin.SetMode(gin.ReleaseMode) // in its debug mode gin prints the routes
	e := gin.New()
	e.HandleMethodNotAllowed = true
	e.RedirectTrailingSlash = false // gin redirects with 307 and only within a method's routes; see redirectToSlash
	e.RedirectFixedPath = false
	e.RemoveExtraSlash = false // an empty segment is an error
	e.UseRawPath = false       // routes match the decoded path, so that an encoded slash separates segments
	e.UseEscapedPath = false
	a.allowed, a.open, a.media = map[string]string{}, map[string]bool{}, map[string]media{}
	a.patterns = map[string]string{}
	e.Use(correlate, a.setRoute, identify, a.recoverPanic, setCommonHeaders, a.setAllow, a.respondToErrors, limitBody)
	checks := []gin.HandlerFunc{a.accept, a.checkOrigin, parseQuery, a.authenticate}
	for _, r := range a.declaredRoutes() {
		a.declare(e, r, checks)
	}
	e.NoMethod(slices.Concat([]gin.HandlerFunc{redirectMissingSlash}, checks, []gin.HandlerFunc{methodNotAllowed})...)
	e.NoRoute(notFound)
	return e
}

// declare registers a route, and a redirect to it for its path without the final slash.
//
// The router prefers a literal segment to a parameter among the routes of one method only: GET tasks/purge/ would
// reach the route tasks/:id/, which has other methods. So a path without parameters answers every routed method, with
// 405 where the route has no handler.
func (a *API) declare(e *gin.Engine, r route, checks []gin.HandlerFunc) {
	path := pulp.Root + r.path
	literal := !strings.Contains(path, ":")
	a.allowed[path], a.open[path], a.media[path] = r.allow(), r.open, r.media
	pattern := parameter.ReplaceAllString(path, "{$1}")
	a.patterns[path], a.patterns[strings.TrimSuffix(path, "/")] = pattern, pattern
	for _, method := range routedMethods {
		if short, ok := strings.CutSuffix(path, "/"); ok {
			e.Handle(method, short, redirectToSlash)
		}
		if h := r.handler(method); h != nil {
			e.Handle(method, path, append(slices.Clip(checks), a.run(h))...)
		} else if literal {
			e.Handle(method, path, append(slices.Clip(checks), methodNotAllowed)...)
		}
	}
}

// run adapts a handler to the router.
func (a *API) run(h handler) gin.HandlerFunc {
	return func(c *gin.Context) {
		rep, err := h(requestOf(c))
		if err != nil {
			fail(c, err)
			return
		}
		a.conclude(c, rep.Status)
		a.send(c, rep)
	}
}

// setRoute declares the route of a request to metrics and traces.
func (a *API) setRoute(c *gin.Context) {
	telemetry.SetRoute(c.Request.Context(), a.patterns[c.FullPath()])
}

// setAllow sets the Allow header of a declared path, which Pulp sends with every response. For a path with parameters
// and a method without a route, the router has set it.
func (a *API) setAllow(c *gin.Context) {
	if allow, ok := a.allowed[cmp.Or(c.FullPath(), c.Request.URL.Path)]; ok {
		c.Header("Allow", allow)
	}
}

// redirectToSlash redirects a declared path that lacks the final slash. The router lets parameters match empty
// segments, which no declared path has.
func redirectToSlash(c *gin.Context) {
	path := c.Request.URL.Path
	if strings.Contains(path, "//") {
		notFound(c)
		return
	}
	location := url.URL{Path: path + "/", RawQuery: c.Request.URL.RawQuery}
	c.Header("Location", location.String())
	c.Header("Content-Length", "0")
	c.Status(http.StatusMovedPermanently)
	c.Writer.WriteHeaderNow()
}

// redirectMissingSlash redirects requests of methods for which the router has no routes.
func redirectMissingSlash(c *gin.Context) {
	if !strings.HasSuffix(c.Request.URL.Path, "/") {
		c.Writer.Header().Del("Allow")
		redirectToSlash(c)
		c.Abort()
	}
}

func notFound(c *gin.Context) { fail(c, reply.ErrNotFound) }

func methodNotAllowed(c *gin.Context) { fail(c, reply.MethodNotAllowed(c.Request.Method)) }
