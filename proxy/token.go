package proxy

import (
	"net/http"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

// maxScopes is the limit of scopes in a request for a token.
const maxScopes = 100

// pluginScope is the resource type in the scopes of Docker's client for plugins.
const pluginScope = "repository(plugin)"

// getToken handles GET /token/. The token contains each requested resource with those of the requested actions that the
// caller has. See compatibility.md#tokens.
func (c *call) getToken() error {
	who, err := c.Auth.Basic(c.r)
	if fault.Is(err, fault.Unauthenticated) {
		message, _ := fault.Message(err)
		return restError(http.StatusUnauthorized, message).withHeader("WWW-Authenticate", `Basic realm="api"`)
	}
	if err != nil { // 429 and 503 in the format of the registry: docker shows the message only then
		return err
	}
	q := c.r.URL.Query()
	if q.Get("service") == "" {
		return restError(http.StatusBadRequest, "No service name provided.")
	}
	answer, err := c.bearerToken(who, q["scope"])
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, answer)
}

// bearerToken returns the response with a bearer token for a caller and scopes, which may be separated by spaces.
func (c *call) bearerToken(who *access.Caller, requested []string) (map[string]any, error) {
	scopes := strings.Fields(strings.Join(requested, " "))
	if len(scopes) > maxScopes {
		return nil, restError(http.StatusBadRequest, "Too many scopes.")
	}
	c.caller = caller{Caller: who, authenticated: who != nil}
	granted := []auth.Access{}
	for _, scope := range scopes {
		parts := strings.Split(scope, ":")
		if len(parts) != 3 { // as in Pulp, one malformed scope voids all
			granted = []auth.Access{}
			break
		}
		kind, class := parts[0], ""
		if kind == pluginScope {
			kind, class = "repository", "plugin"
		}
		actions, err := c.grant(kind, parts[1], strings.Split(parts[2], ","))
		if err != nil {
			return nil, err
		}
		granted = append(granted, auth.Access{Type: kind, Class: class, Name: parts[1], Actions: actions})
	}
	issued, err := c.Tokens.Issue(who, granted)
	if err != nil {
		return nil, err
	}
	return map[string]any{
		"expires_in": int(issued.Lifetime.Seconds()), "issued_at": issued.IssuedAt.Format("2006-01-02T15:04:05.000000Z"),
		"token": issued.Token, "access_token": issued.Token,
	}, nil
}

// grant returns the subset of the requested actions on a resource that a token for the caller permits. push includes
// pull.
//
// A token does not prove a permission: each request checks permissions again. Every account gets pull on every name,
// whether the repository exists and whether the account may read it. A narrower token would reveal which private names
// exist.
func (c *call) grant(kind, name string, actions []string) ([]string, error) {
	none := []string{}
	if kind == "registry" && name == "catalog" {
		if c.caller.Caller != nil && len(actions) == 1 && actions[0] == "*" {
			return []string{"*"}, nil
		}
		return none, nil
	}
	if kind != "repository" || !pulp.ValidName(name) {
		return none, nil
	}
	asks := func(action string) bool { return slices.Contains(actions, action) || slices.Contains(actions, "*") }
	if asks("push") {
		if writes, err := c.mayWriteTo(name); err != nil || writes {
			return []string{"push", "pull"}, err
		}
	}
	switch {
	case !asks("pull"):
		return none, nil
	case c.caller.Caller != nil:
		return []string{"pull"}, nil
	case c.AnonymousPull == auth.AnonymousPullOff || c.AnonymousPull == "":
		return none, nil
	}
	public, err := c.isPublic(name)
	if err != nil || !public {
		return none, err
	}
	return []string{"pull"}, nil
}

// isPublic reports whether anonymous callers may pull from a name: a public distribution has it, or a public cache may get it.
func (c *call) isPublic(name string) (bool, error) {
	_, err := c.Store.Serving.ResolvePublic(c.r.Context(), name)
	if !fault.Is(err, fault.NotFound) {
		return err == nil, err
	}
	if !c.PullThroughAnonymous {
		return false, nil
	}
	d, err := c.Store.Catalog.PullThroughAbove(c.r.Context(), name)
	if fault.Is(err, fault.NotFound) {
		return false, nil
	}
	return err == nil && !d.Private, err
}

// writeActions are the actions that the action push of a token covers.
var writeActions = []access.Action{access.Push, access.Sign, access.Remove}

// mayWriteTo reports whether the caller may change the content of a name in any way, or push to it if it does not exist.
// The queries and the result do not depend on whether the name exists.
func (c *call) mayWriteTo(name string) (bool, error) {
	on := c.distribution(name, true)
	for _, action := range writeActions {
		if c.Access.AllowCached(c.caller.Caller, action, on) {
			return true, nil
		}
	}
	on, err := c.Access.LoadPath(c.r.Context(), c.caller.Caller, on)
	if err != nil {
		return false, err
	}
	may := func(action access.Action) bool { return access.Allow(c.caller.Caller, action, on) }
	return slices.ContainsFunc(writeActions, may) || access.MayPushNew(c.caller.Caller, on), nil
}

// restError returns a failure in the format of the REST API.
func restError(status int, detail string) *failure {
	return &failure{status: status, code: "UNKNOWN", message: detail, restBody: map[string]string{"detail": detail}}
}
