package proxy

import (
	"context"
	"net/http"
	"strings"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/clientaddr"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
)

// caller is the authenticated origin of a request.
type caller struct {
	*access.Caller              // nil for an anonymous caller
	user           *pulp.User   // the account of Caller
	authenticated  bool         // the request has valid credentials or a valid token, possibly an anonymous one
	token          *auth.Bearer // nil without a token
}

func (b caller) name() string {
	if b.user == nil {
		return "anonymous"
	}
	return b.user.Username
}

// client identifies the caller for limits per client: by user or, if anonymous, by network address.
func (c *call) client() string {
	if c.caller.user != nil {
		return "user " + c.caller.user.Username
	}
	return "address " + clientaddr.Network(c.r.RemoteAddr).String()
}

// covers reports whether the token of the request permits an action on a resource. Without a token every action is
// covered: see compatibility.md#basic-credentials. It does not check the user's permissions.
func (b caller) covers(kind, name, action string) bool {
	return b.token == nil || b.token.Allows(kind, name, action)
}

var (
	errUnauthenticated = newError(
		http.StatusUnauthorized,
		"UNAUTHORIZED",
		"Authentication credentials were not provided.",
		nil,
	)
	errTokensOnly = newError(
		http.StatusUnauthorized,
		"UNAUTHORIZED",
		"A user name and a password are accepted here only for a token: "+
			"get one at /token/, as clients do by themselves, and send it as Bearer.",
		nil,
	)
	errBadToken = newError(
		http.StatusUnauthorized,
		"UNAUTHORIZED",
		"Access to the requested resource is not authorized. The provided Bearer token is invalid.",
		nil,
	)
	errScope = newError(http.StatusUnauthorized, "UNAUTHORIZED", "Insufficient permissions", nil)
)

// authenticate sets the caller from the Authorization header. A token is valid only while its account is active and has
// the same password as when the token was issued.
func (c *call) authenticate() error {
	header := c.r.Header.Get("Authorization")
	scheme, credentials, _ := strings.Cut(header, " ")
	switch {
	case header == "":
		return nil
	case strings.EqualFold(scheme, "Basic") && c.TokensOnly:
		return c.challenge(errTokensOnly, "")
	case strings.EqualFold(scheme, "Basic"):
		who, err := c.Auth.Basic(c.r)
		if fault.Is(err, fault.Unauthenticated) {
			message, _ := fault.Message(err)
			return c.challenge(newError(http.StatusUnauthorized, "UNAUTHORIZED", message, nil), "")
		}
		if who != nil {
			c.caller = caller{Caller: who, user: &who.Account, authenticated: true}
		}
		return err
	case strings.EqualFold(scheme, "Bearer"):
		token, err := c.Tokens.Verify(strings.TrimSpace(credentials))
		if err != nil {
			return c.challenge(errBadToken, "invalid_token")
		}
		c.caller = caller{authenticated: true, token: &token}
		if token.Username == "" {
			return nil
		}
		user, err := c.Store.Accounts.UserByName(c.r.Context(), token.Username)
		if fault.Is(err, fault.NotFound) || err == nil && !c.Tokens.BelongsTo(token, user) {
			return c.challenge(errBadToken, "invalid_token")
		}
		c.caller.Caller = &access.Caller{Account: user, Identity: token.Identity}
		c.caller.user = &c.caller.Account
		return err
	}
	return c.challenge(errUnauthenticated, "")
}

// challenge adds a WWW-Authenticate header with the token service and the required scopes to a failure. reason is its
// error parameter; empty for none. See compatibility.md#tokens.
func (c *call) challenge(why *failure, reason string) error {
	text := `Bearer realm="` + c.PublicURL.String() + `/token/",service="` + c.PublicURL.Host + `"`
	for _, scope := range c.scopes() {
		text += `,scope="` + scope + `"`
	}
	if reason != "" {
		text += `,error="` + reason + `"`
	}
	return why.withHeader("WWW-Authenticate", text)
}

// scopes returns the token scopes that the request requires.
func (c *call) scopes() []string {
	if c.r.URL.Path == "/v2/_catalog" {
		return []string{"registry:catalog:*"}
	}
	if c.name == "" {
		return nil
	}
	action := "push"
	if (c.r.Method == http.MethodGet || c.r.Method == http.MethodHead) && c.kind != routeUpload {
		action = "pull"
	}
	scopes := []string{"repository:" + c.name + ":" + action}
	if from := c.r.URL.Query().Get("from"); c.r.Method == http.MethodPost && pulp.ValidName(from) {
		scopes = append(scopes, "repository:"+from+":pull")
	}
	return scopes
}

// unauthorized returns the failure for a caller without permission. It is 401 also for authenticated callers: see
// compatibility.md#registry-errors.
func (c *call) unauthorized() error {
	if c.caller.authenticated {
		return c.challenge(errScope, "insufficient_scope")
	}
	return c.challenge(errUnauthenticated, "")
}

// authObject returns the object for auth.Allow.
func (c *call) authObject(name string, t record.Target, exists bool) auth.Object {
	anonymous := c.AnonymousPull == auth.AnonymousPullOn ||
		c.AnonymousPull == auth.AnonymousPullWithToken && c.caller.token != nil
	return auth.Object{Path: name, Exists: exists, Private: t.Distribution.Private, AnonymousPull: anonymous}
}

// readableTarget returns the target of the request's name if the caller may read it. The failure is NAME_UNKNOWN only
// for callers with permission to read any repository of that name. For others it is 401, so that they cannot
// distinguish private names from absent ones.
func (c *call) readableTarget() (record.Target, error) {
	t, err := c.visibleTarget(c.name)
	if fault.Is(err, fault.NotFound) {
		if c.mayPull(c.name, hiddenTarget) {
			return t, c.nameUnknown()
		}
		return t, c.unauthorized()
	}
	return t, err
}

// hiddenTarget is the target to check whether the caller may read a name even if it is private.
var hiddenTarget = record.Target{Distribution: pulp.Distribution{Private: true}}

// visibleTarget returns the target of a name. The error is NotFound if the name serves nothing or the caller may not
// read it.
func (c *call) visibleTarget(name string) (record.Target, error) {
	t, err := c.resolve(name)
	if err != nil {
		return t, err
	}
	if !c.mayPull(name, t) || !t.Served() {
		return t, fault.New(fault.NotFound, "Repository not found.")
	}
	return t, nil
}

// resolve returns the target of a name. For callers without permission to read private repositories of the name, a
// private target is looked up with the same queries and the same result as an absent one: NotFound.
func (c *call) resolve(name string) (record.Target, error) {
	if auth.Allow(c.caller.user, auth.Pull, c.authObject(name, hiddenTarget, true)) {
		return c.Store.Serving.Resolve(c.r.Context(), name)
	}
	return c.Store.Serving.ResolvePublic(c.r.Context(), name)
}

// mayPull reports whether the caller may read a target. A token that does not cover the target still permits what an
// anonymous caller may read.
func (c *call) mayPull(name string, t record.Target) bool {
	on := c.authObject(name, t, true)
	if c.AnonymousPull == auth.AnonymousPullOn && auth.Allow(nil, auth.Pull, on) {
		return true
	}
	covered := c.caller.covers("repository", name, "pull") || c.caller.covers("repository", name, "push")
	return covered && auth.Allow(c.caller.user, auth.Pull, on)
}

// mayWrite reports whether the caller may change the content of the request's name. The result does not depend on
// whether the name exists.
func (c *call) mayWrite(action auth.Action) bool {
	return c.caller.covers("repository", c.name, "push") && auth.Allow(c.caller.user, action, auth.Object{Path: c.name})
}

// writableTarget returns the target of the request's name if the caller may change it. Unlike pushTarget it does not
// create it: the failure is NAME_UNKNOWN if the name does not exist.
func (c *call) writableTarget(action auth.Action) (record.Target, error) {
	if !c.mayWrite(action) {
		return record.Target{}, c.unauthorized()
	}
	t, err := c.Store.Serving.Resolve(c.r.Context(), c.name)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return t, err
	}
	switch {
	case err != nil || !t.Served():
		return t, c.nameUnknown()
	case c.readOnly(t):
		return t, newError(
			http.StatusBadRequest,
			"NAME_INVALID",
			"Repository is read-only.",
			map[string]string{"name": c.name},
		)
	}
	return t, nil
}

// readOnly reports whether a target rejects the request: a pinned version rejects every change, a mirrored repository
// everything but signatures. See compatibility.md#push-creates-repositories.
func (c *call) readOnly(t record.Target) bool {
	mirrored := t.Repository.RemoteID != "" && !c.PushToMirrors && c.kind != routeSignatures
	return t.Distribution.Pinned != nil || mirrored
}

// pushTarget returns the target of the request's name if the caller may push to it, and creates it if it does not
// exist. See compatibility.md#push-creates-repositories.
func (c *call) pushTarget() (record.Target, error) {
	if !c.mayWrite(auth.Push) {
		return record.Target{}, c.unauthorized()
	}
	t, err := c.Store.Serving.Resolve(c.r.Context(), c.name)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return t, err
	}
	if err == nil && t.Served() && !c.readOnly(t) {
		return t, nil
	}
	err = c.withSignatures(func(ctx context.Context) error {
		t, err = c.Store.Catalog.PushTarget(ctx, c.name, c.PushType)
		return err
	})
	if fault.Is(err, fault.Conflict) || err == nil && c.readOnly(t) {
		message := "Repository is not available for push."
		if err == nil && t.Distribution.Pinned == nil {
			message += " It mirrors a remote; the setting mirror.allow_push permits pushes."
		}
		return t, newError(http.StatusBadRequest, "NAME_INVALID", message, map[string]string{"name": c.name})
	}
	if err != nil || t.Made {
		c.audit("create repository", err)
	}
	return t, err
}
