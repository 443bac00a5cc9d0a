package proxy

import (
	"context"
	"net/http"
	"strings"

	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/clientaddr"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
)

// bearer is who makes a request, and to what a token limits them.
type bearer struct {
	user          *pulp.User // nil: nobody, or a token of nobody's
	authenticated bool       // credentials or a token came with the request
	token         *auth.Bearer
}

func (b bearer) name() string {
	if b.user == nil {
		return "anonymous"
	}
	return b.user.Username
}

// client names the caller for its share of what is bounded: the user, or without one the address, of IPv6 the /64.
func (c *call) client() string {
	if c.who.user != nil {
		return "user " + c.who.user.Username
	}
	return "address " + clientaddr.Network(c.r.RemoteAddr).String()
}

// covers says whether what the request came with covers an action, whoever may do it. A password covers everything (D21).
func (b bearer) covers(kind, name, action string) bool {
	return b.token == nil || b.token.Allows(kind, name, action)
}

var (
	errUnknownCaller = newError(http.StatusUnauthorized, "UNAUTHORIZED", "Authentication credentials were not provided.", nil)
	errTokensOnly    = newError(http.StatusUnauthorized, "UNAUTHORIZED", "A user name and a password are accepted here only for a token: "+
		"get one at /token/, as clients do by themselves, and send it as Bearer.", nil)
	errPassword = newError(http.StatusUnauthorized, "UNAUTHORIZED", "Invalid username/password.", nil)
	errBadToken = newError(http.StatusUnauthorized, "UNAUTHORIZED", "Access to the requested resource is not authorized. The provided Bearer token is invalid.", nil)
	errScope    = newError(http.StatusUnauthorized, "UNAUTHORIZED", "Insufficient permissions", nil)
)

// authenticate identifies the caller. A token is valid only while its account is active and has the password that it had when the token was
// issued. Permissions are evaluated with every request.
func (c *call) authenticate() error {
	header := c.r.Header.Get("Authorization")
	scheme, credentials, _ := strings.Cut(header, " ")
	switch {
	case header == "":
		return nil
	case strings.EqualFold(scheme, "Basic") && c.TokensOnly:
		return c.challenge(errTokensOnly, "")
	case strings.EqualFold(scheme, "Basic"):
		user, err := c.Auth.Basic(c.r)
		if fault.Is(err, fault.Unauthenticated) {
			return c.challenge(errPassword, "")
		}
		c.who = bearer{user: user, authenticated: true}
		return err
	case strings.EqualFold(scheme, "Bearer"):
		token, err := c.Tokens.Verify(strings.TrimSpace(credentials))
		if err != nil {
			return c.challenge(errBadToken, "invalid_token")
		}
		c.who = bearer{authenticated: true, token: &token}
		if token.Username == "" {
			return nil
		}
		user, err := c.Store.Accounts.UserByName(c.r.Context(), token.Username)
		if fault.Is(err, fault.NotFound) || err == nil && !c.Tokens.BelongsTo(token, user) {
			return c.challenge(errBadToken, "invalid_token")
		}
		c.who.user = &user
		return err
	}
	return c.challenge(errUnknownCaller, "")
}

// challenge returns a refusal that tells where to get a token, and for what (contract 7.1).
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

// scopes are what the request needs a token for.
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

// refuse returns the answer to somebody who may not: 401, for those who are known too (contract 3).
func (c *call) refuse() error {
	if c.who.authenticated {
		return c.challenge(errScope, "insufficient_scope")
	}
	return c.challenge(errUnknownCaller, "")
}

// object returns a target in the form that auth decides about.
func (c *call) object(name string, t record.Target, exists bool) auth.Object {
	anonymous := c.AnonymousPull == auth.AnonymousPullOn || c.AnonymousPull == auth.AnonymousPullWithToken && c.who.token != nil
	return auth.Object{Path: name, Exists: exists, Private: t.Distribution.Private, AnonymousPull: anonymous}
}

// readable returns the target of the request's name, if the caller may read it. NAME_UNKNOWN tells that a name is absent to those alone who could read it
// if it existed, even if it were private. To all others an absent name and a private one look the same: 401.
func (c *call) readable() (record.Target, error) {
	t, err := c.visible(c.name)
	if fault.Is(err, fault.NotFound) {
		if c.mayPull(c.name, privateTarget) {
			return t, c.nameUnknown()
		}
		return t, c.refuse()
	}
	return t, err
}

// privateTarget stands for a name that the caller knows nothing about.
var privateTarget = record.Target{Distribution: pulp.Distribution{Private: true}}

// visible returns the target of a name. NotFound when it serves nothing, or nothing that the caller may read.
func (c *call) visible(name string) (record.Target, error) {
	t, err := c.lookUp(name)
	if err != nil {
		return t, err
	}
	if !c.mayPull(name, t) || !t.Served() {
		return t, fault.New(fault.NotFound, "Repository not found.")
	}
	return t, nil
}

// lookUp returns the target of a name. For callers who may not read private repositories under the name, a private target is looked up as an absent one is: by the same
// queries and with the same result, NotFound.
func (c *call) lookUp(name string) (record.Target, error) {
	if auth.Allow(c.who.user, auth.Pull, c.object(name, privateTarget, true)) {
		return c.Store.Serving.Resolve(c.r.Context(), name)
	}
	return c.Store.Serving.ResolvePublic(c.r.Context(), name)
}

// mayPull reports whether the caller may read a target. A token that is too narrow reads what callers without any may read.
func (c *call) mayPull(name string, t record.Target) bool {
	on := c.object(name, t, true)
	if c.AnonymousPull == auth.AnonymousPullOn && auth.Allow(nil, auth.Pull, on) {
		return true
	}
	covered := c.who.covers("repository", name, "pull") || c.who.covers("repository", name, "push")
	return covered && auth.Allow(c.who.user, auth.Pull, on)
}

// may reports whether the caller may change the content under the request's name. It depends on the name alone, not on what exists there.
func (c *call) may(what auth.Action) bool {
	return c.who.covers("repository", c.name, "push") && auth.Allow(c.who.user, what, auth.Object{Path: c.name})
}

// writable returns what the request's name serves, if the caller may change it. It makes nothing: NAME_UNKNOWN when it is not there.
func (c *call) writable(what auth.Action) (record.Target, error) {
	if !c.may(what) {
		return record.Target{}, c.refuse()
	}
	t, err := c.Store.Serving.Resolve(c.r.Context(), c.name)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return t, err
	}
	switch {
	case err != nil || !t.Served():
		return t, c.nameUnknown()
	case c.readOnly(t):
		return t, newError(http.StatusBadRequest, "NAME_INVALID", "Repository is read-only.", map[string]string{"name": c.name})
	}
	return t, nil
}

// readOnly says whether a target takes no pushes: it is a fixed version, or a mirror of a remote (contract 3.1), which takes signatures alone.
func (c *call) readOnly(t record.Target) bool {
	mirrored := t.Repository.RemoteID != "" && !c.PushToMirrors && c.kind != routeSignatures
	return t.Distribution.Pinned != nil || mirrored
}

// pushTarget returns what the request's name serves, making it when it is not there, if the caller may (D1).
func (c *call) pushTarget() (record.Target, error) {
	if !c.may(auth.Push) {
		return record.Target{}, c.refuse()
	}
	t, err := c.Store.Serving.Resolve(c.r.Context(), c.name)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return t, err
	}
	if err == nil && t.Served() && !c.readOnly(t) {
		return t, nil
	}
	err = c.sealed(func(ctx context.Context) error {
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
