package api

import (
	"cmp"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/countersign/countersign/internal/actor"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/pulp"
)

// nouns are the kinds of objects by the segments of paths.
var nouns = map[string]string{
	"repositories": "repository", "repository_versions": "version", "versions": "version", "distributions": "distribution",
	"remotes": "remote", "namespaces": "namespace", "tasks": "task", "task-groups": "task group", "workers": "worker",
	"signing-services": "signing service", "contentguards": "content guard", "content": "content", "upstream": "upstream",
	"users": "user", "groups": "group", "roles": "role", "tokens": "token", "robots": "robot", "webhooks": "webhook", "access_policies": "access policy",
	"audit": "audit log", "status": "status",
}

// verbs are the actions that the last segment of a path names. Others are the segment's words, such as "set label".
var verbs = map[string]string{
	"add": "add content", "adopt": "adopt", "cleanup": "clean up orphans", "compare": "compare", "migrate": "migrate repository",
	"purge": "purge tasks", "ping": "ping webhook", "redeliver": "redeliver event", "remove": "remove content", "repair": "repair version", "rollback": "roll back repository",
	"sign": "sign repository", "sync": "sync repository", "tag": "tag image", "untag": "untag image", "verify": "verify tag",
}

// readingActions are actions of POST that change nothing. Only their refusals are audited.
var readingActions = []string{"verify tag"}

// auditAction returns the action of a route in the audit log, as a verb and the kind of object.
func auditAction(method, route string) string {
	segments := strings.Split(strings.Trim(strings.TrimPrefix(route, pulp.Root), "/"), "/")
	last := segments[len(segments)-1]
	noun := nounOf(segments)
	switch {
	case method == http.MethodGet || method == http.MethodHead:
		return "view " + noun
	case method == http.MethodDelete:
		return "delete " + noun
	case method == http.MethodPatch && strings.HasPrefix(noun, "task"):
		return "cancel " + noun // the only change of a task
	case method == http.MethodPatch || method == http.MethodPut:
		return "edit " + noun
	case segments[0] == "repair": // of all content
		return "repair content"
	case nouns[last] != "" || isType(last):
		return "create " + noun
	}
	return cmp.Or(verbs[last], strings.ReplaceAll(last, "_", " "))
}

// isType reports whether a segment is a type of objects, which follows the segment of their kind.
func isType(segment string) bool {
	return segment == "container" || segment == "container-push" || segment == "pull-through" || segment == "content_redirect"
}

// nounOf returns the kind of object that the segments of a path name, such as "user role" for a role of a user.
func nounOf(segments []string) string {
	var words []string
	for _, s := range segments {
		if noun := nouns[s]; noun != "" {
			words = append(words, noun)
		}
	}
	switch {
	case len(words) == 0:
		return segments[0]
	case words[len(words)-1] == "version": // of repositories only
		return "version"
	}
	return strings.Join(words, " ")
}

// identify puts the client of a request into its context as the actor, until its credentials are verified.
func identify(c *gin.Context) {
	c.Request = c.Request.WithContext(actor.With(c.Request.Context(), actor.Unknown(c.Request.RemoteAddr)))
}

// pathParameter is the form of parameters that the audit log shows. Others cannot name an object.
var pathParameter = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// objectOfPath returns the path of a request as the object of its audit entry. It returns the route instead of a path
// that names no object, so that the length is bounded.
func objectOfPath(c *gin.Context) string {
	malformed := func(p gin.Param) bool { return !pathParameter.MatchString(p.Value) }
	if slices.ContainsFunc(c.Params, malformed) {
		return c.FullPath()
	}
	return c.Request.URL.Path
}

// conclude writes the audit entries of a request before its response is sent: those of the changes that the handler
// reported, else one of a refusal, or of a change that failed.
func (a *API) conclude(c *gin.Context, status int) {
	if c.FullPath() == "" || c.GetBool(concluded) {
		return
	}
	c.Set(concluded, true)
	ctx := c.Request.Context()
	if req, ok := c.Get(requestKey); ok {
		if noted := req.(*request).noted; len(noted) > 0 {
			for _, n := range noted {
				n.entry.Status = status
				a.Audit.Record(ctx, n.entry, n.details...)
			}
			return
		}
	}
	entry := audit.Entry{Action: auditAction(c.Request.Method, c.FullPath()), Object: objectOfPath(c), Status: status}
	known := actor.From(ctx).Authenticated()
	switch {
	case refusesLogin(c.Request, status) && !known:
		name, _, _ := c.Request.BasicAuth()
		a.Audit.RecordLogin(ctx, c.Request.RemoteAddr, name, status, entry.Action)
		return
	case status == http.StatusForbidden:
		entry.Result = audit.Denied
	case !known || !mutates(c.Request.Method) || status == http.StatusMethodNotAllowed || slices.Contains(readingActions, entry.Action):
		return
	case status >= http.StatusBadRequest:
		entry.Result = audit.Failed
	default:
		entry.Result = audit.Done
	}
	a.Audit.Record(ctx, entry)
}

// concluded is the key of a request whose entries are written.
const concluded = "audit concluded"

// refusesLogin reports whether a response refuses the credentials of a request.
func refusesLogin(r *http.Request, status int) bool {
	return r.Header.Get("Authorization") != "" && (status == http.StatusUnauthorized || status == http.StatusTooManyRequests)
}

// mutates reports whether requests of a method can change something.
func mutates(method string) bool {
	return method != http.MethodGet && method != http.MethodHead && method != http.MethodOptions
}
