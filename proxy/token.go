package proxy

import (
	"net/http"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

// maxScopes is how many scopes one token may be asked for.
const maxScopes = 100

// pluginScope is the resource type with which Docker's client asks for a repository when it pushes or pulls a plugin.
const pluginScope = "repository(plugin)"

// getToken answers GET /token/ (contract 7.1): a token for what the caller may do of what they ask for. What they may not is there without actions.
func (c *call) getToken() error {
	user, err := c.Auth.Basic(c.r)
	if fault.Is(err, fault.Unauthenticated) {
		return restError(http.StatusUnauthorized, "Invalid username/password.").withHeader("WWW-Authenticate", `Basic realm="api"`)
	}
	if err != nil { // 429 and 503 in the shape of the registry: docker shows the reason only from there
		return err
	}
	q := c.r.URL.Query()
	if q.Get("service") == "" {
		return restError(http.StatusBadRequest, "No service name provided.")
	}
	scopes := strings.Fields(strings.Join(q["scope"], " "))
	if len(scopes) > maxScopes {
		return restError(http.StatusBadRequest, "Too many scopes.")
	}
	c.who = bearer{user: user, authenticated: user != nil}
	access := []auth.Access{}
	for _, scope := range scopes {
		parts := strings.Split(scope, ":")
		if len(parts) != 3 { // one that cannot be read spoils them all
			access = []auth.Access{}
			break
		}
		kind, class := parts[0], ""
		if kind == pluginScope {
			kind, class = "repository", "plugin"
		}
		actions, err := c.grant(kind, parts[1], strings.Split(parts[2], ","))
		if err != nil {
			return err
		}
		access = append(access, auth.Access{Type: kind, Class: class, Name: parts[1], Actions: actions})
	}
	issued, err := c.Tokens.Issue(user, access)
	if err != nil {
		return err
	}
	return c.answerJSON(http.StatusOK, map[string]any{
		"expires_in": int(issued.Lifetime.Seconds()), "issued_at": issued.IssuedAt.Format("2006-01-02T15:04:05.000000Z"),
		"token": issued.Token, "access_token": issued.Token,
	})
}

// grant returns the actions, of those asked for, that a token for the caller covers. push brings pull with it.
//
// A token is no proof of a right: each request is decided anew. So every account gets pull on every name, whether it exists and whether the account may read it; a
// token that said less would tell private names from absent ones.
func (c *call) grant(kind, name string, actions []string) ([]string, error) {
	none := []string{}
	if kind == "registry" && name == "catalog" {
		if c.who.user != nil && len(actions) == 1 && actions[0] == "*" {
			return []string{"*"}, nil
		}
		return none, nil
	}
	if kind != "repository" || !pulp.ValidName(name) {
		return none, nil
	}
	asks := func(action string) bool { return slices.Contains(actions, action) || slices.Contains(actions, "*") }
	switch {
	case asks("push") && auth.Allow(c.who.user, auth.Push, auth.Object{Path: name}):
		return []string{"push", "pull"}, nil
	case !asks("pull"):
		return none, nil
	case c.who.user != nil:
		return []string{"pull"}, nil
	case c.AnonymousPull == auth.AnonymousPullOff || c.AnonymousPull == "":
		return none, nil
	}
	_, err := c.Store.Serving.ResolvePublic(c.r.Context(), name)
	if fault.Is(err, fault.NotFound) {
		return none, nil
	}
	return []string{"pull"}, err
}

// restError is an error in the shape of the REST API.
func restError(status int, detail string) *failure {
	return &failure{status: status, code: "UNKNOWN", message: detail, rest: map[string]string{"detail": detail}}
}
