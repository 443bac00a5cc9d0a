package proxy

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/clientaddr"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/catalog"
	"github.com/countersign/countersign/internal/store/record"
)

// caller is the authenticated origin of a request.
type caller struct {
	*access.Caller              // nil for an anonymous caller
	authenticated  bool         // the request has valid credentials or a valid token, possibly an anonymous one
	token          *auth.Bearer // nil without a token
}

func (b caller) name() string {
	if b.Caller == nil {
		return "anonymous"
	}
	return b.Account.Username
}

// owner returns the id of the account that owns what the caller creates; 0 for none.
func (b caller) owner() int64 {
	if b.Caller == nil {
		return 0
	}
	return b.Account.ID
}

// client identifies the caller for limits per client: by user or, if anonymous, by network address.
func (c *call) client() string {
	if c.caller.Caller != nil {
		return "user " + c.caller.name()
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

// authenticate sets the caller from the Authorization header, or from the client certificate without one. A token is valid only while its account is active and has
// the same password as when the token was issued.
func (c *call) authenticate() error {
	header := c.r.Header.Get("Authorization")
	scheme, credentials, _ := strings.Cut(header, " ")
	switch {
	case header == "":
		who, err := c.Auth.Basic(c.r) // by client certificate
		c.caller = caller{Caller: who, authenticated: who != nil}
		return err
	case strings.EqualFold(scheme, "Basic") && c.TokensOnly:
		return c.challenge(errTokensOnly, "")
	case strings.EqualFold(scheme, "Basic"):
		who, err := c.Auth.Basic(c.r)
		if fault.Is(err, fault.Unauthenticated) {
			message, _ := fault.Message(err)
			return c.challenge(newError(http.StatusUnauthorized, "UNAUTHORIZED", message, nil), "")
		}
		c.caller = caller{Caller: who, authenticated: who != nil}
		return err
	case strings.EqualFold(scheme, "Bearer"):
		who, token, err := c.Auth.Bearer(c.r.Context(), c.Tokens, strings.TrimSpace(credentials))
		if fault.Is(err, fault.Unauthenticated) {
			return c.challenge(errBadToken, "invalid_token")
		} else if err != nil {
			return err
		}
		c.caller = caller{Caller: who, authenticated: true, token: &token}
		return nil
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

// distribution returns the object for decisions about pulling from a distribution.
func (c *call) distribution(basePath string, private bool) access.Object {
	anonymous := c.AnonymousPull == auth.AnonymousPullOn ||
		c.AnonymousPull == auth.AnonymousPullWithToken && c.caller.token != nil
	return access.Object{
		Kind: access.Distribution, Name: basePath, Exists: true, Private: private, AnonymousPull: anonymous,
	}
}

// readableTarget returns the target of the request's name if the caller may read it. The failure is NAME_UNKNOWN only
// for callers with permission to read any repository of that name. For others it is 401, so that they cannot
// distinguish private names from absent ones.
func (c *call) readableTarget() (record.Target, error) {
	t, insider, err := c.resolve(c.name)
	if err == nil && !t.Served() {
		if !insider {
			insider, err = c.mayPull(c.name, true)
		}
		if err == nil {
			err = errNotServed
		}
	}
	switch {
	case !fault.Is(err, fault.NotFound):
		return t, err
	case insider:
		return t, c.nameUnknown()
	}
	return t, c.unauthorized()
}

var errNotServed = fault.New(fault.NotFound, "Repository not found.")

// resolve returns the target of a name if the caller may read it. insider reports whether the caller may read every
// repository of that name; it is not set for public ones, which need no such permission. For others a private target is
// looked up with the same queries and the same result as an absent one: NotFound.
func (c *call) resolve(name string) (t record.Target, insider bool, err error) {
	ctx, hidden := c.r.Context(), c.distribution(name, true)
	covered := c.caller.coversPull(name)
	if covered && c.Access.AllowCached(c.caller.Caller, access.Pull, hidden) {
		t, err = c.Store.Serving.Resolve(ctx, name)
		return t, true, err
	}
	t, err = c.Store.Serving.ResolvePublic(ctx, name)
	if err == nil && !c.mayPullPublic(name) {
		return record.Target{}, false, errNotServed
	}
	if !covered || !fault.Is(err, fault.NotFound) {
		return t, false, err
	}
	insider, denied := c.Access.AllowPath(ctx, c.caller.Caller, access.Pull, hidden)
	if denied != nil || !insider {
		return t, false, cmp.Or(denied, err)
	}
	t, err = c.Store.Serving.Resolve(ctx, name)
	return t, true, err
}

// mayPull reports whether the caller may read from a name that serves a public or a private repository.
func (c *call) mayPull(name string, private bool) (bool, error) {
	if !private {
		return c.mayPullPublic(name), nil
	}
	if !c.caller.coversPull(name) {
		return false, nil
	}
	return c.Access.AllowPath(c.r.Context(), c.caller.Caller, access.Pull, c.distribution(name, true))
}

// mayPullPublic reports whether the caller may read from a name that serves a public repository. A token that does not
// cover the name still permits what an anonymous caller may read.
func (c *call) mayPullPublic(name string) bool {
	on := c.distribution(name, false)
	return c.AnonymousPull == auth.AnonymousPullOn && access.Allow(nil, access.Pull, on) ||
		c.caller.coversPull(name) && access.Allow(c.caller.Caller, access.Pull, on)
}

// coversPull reports whether the token of the request permits reading from a name. push includes pull.
func (b caller) coversPull(name string) bool {
	return b.covers("repository", name, "pull") || b.covers("repository", name, "push")
}

// mayWrite reports whether the caller may change the content of the request's name. The queries and the result do not
// depend on whether the name exists.
func (c *call) mayWrite(action access.Action) (bool, error) {
	if !c.caller.covers("repository", c.name, "push") {
		return false, nil
	}
	return c.Access.AllowPath(c.r.Context(), c.caller.Caller, action, c.distribution(c.name, true))
}

// writableTarget returns the target of the request's name if the caller may change it. Unlike pushTarget it does not
// create it: the failure is NAME_UNKNOWN if the name does not exist.
func (c *call) writableTarget(action access.Action) (record.Target, error) {
	if may, err := c.mayWrite(action); err != nil || !may {
		return record.Target{}, cmp.Or(err, c.unauthorized())
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
	push, create, err := c.mayPush()
	if err != nil || !push && !create {
		return record.Target{}, cmp.Or(err, c.unauthorized())
	}
	t, err := c.Store.Serving.Resolve(c.r.Context(), c.name)
	exists := err == nil
	switch {
	case err != nil && !fault.Is(err, fault.NotFound):
		return t, err
	case exists && !push:
		return record.Target{}, c.unauthorized()
	case exists && c.readOnly(t):
		return t, c.notForPush(t)
	case exists && t.Served():
		return t, nil
	}
	for range firstPushAttempts {
		if t, err = c.createTarget(exists); !errors.Is(err, catalog.ErrNamespaceExists) {
			break
		}
	}
	return t, err
}

// firstPushAttempts is the number of attempts of a push that creates its namespace.
const firstPushAttempts = 3

// mayPush reports whether the caller may push to the request's name if it exists. If not, create reports whether the
// caller may do so if it does not exist.
func (c *call) mayPush() (push, create bool, err error) {
	if push, err = c.mayWrite(access.Push); err != nil || push || !c.caller.covers("repository", c.name, "push") {
		return push, false, err
	}
	on, err := c.Access.LoadPath(c.r.Context(), c.caller.Caller, c.distribution(c.name, true))
	return false, err == nil && access.MayPushNew(c.caller.Caller, on), err
}

// createTarget creates the missing objects of the request's name and returns its target. exists reports whether there is a
// distribution; otherwise the caller needs the permission to create one. A repository that has the name is used if the
// caller may change its content. The error is catalog.ErrNamespaceExists if the permissions must be checked again.
func (c *call) createTarget(exists bool) (t record.Target, err error) {
	first := catalog.FirstPush{BasePath: c.name, Type: c.PushType, Owner: c.caller.owner()}
	if !exists {
		on, err := c.Access.LoadPath(c.r.Context(), c.caller.Caller, c.distribution(c.name, true))
		if err != nil || !access.MayPushNew(c.caller.Caller, on) {
			return t, cmp.Or(err, c.unauthorized())
		}
		if err := c.refusePushBelowCache(); err != nil {
			return t, err
		}
		first.NewNamespace = !on.NamespaceExists
	}
	if first.RepositoryID, err = c.unservedRepository(); err != nil {
		return t, err
	}
	err = c.withSignatures(func(ctx context.Context) error {
		t, err = c.Store.Catalog.PushTarget(ctx, first)
		return err
	})
	switch {
	case errors.Is(err, catalog.ErrNamespaceExists):
		return t, err
	case fault.Is(err, fault.Conflict) || err == nil && c.readOnly(t):
		return t, c.notForPush(t)
	case err != nil || t.Made:
		c.audit("create repository", err)
	}
	return t, err
}

// unservedRepository returns the id of the repository that has the request's name and that no distribution serves; empty
// if there is none. The failure is 401 if the caller may not change its content.
func (c *call) unservedRepository() (string, error) {
	repo, err := c.Store.Catalog.UnservedRepository(c.r.Context(), c.name)
	if fault.Is(err, fault.NotFound) {
		return "", nil
	} else if err != nil {
		return "", err
	}
	on := access.Object{
		Kind: access.Repository, Name: repo.Name, Push: repo.Type == pulp.ContainerPush, Exists: true,
	}
	may, err := c.Access.Allow(c.r.Context(), c.caller.Caller, access.Modify, on, repo.ID)
	if err == nil && !may {
		err = c.unauthorized()
	}
	return repo.ID, err
}

// notForPush returns the failure for a push to a target that accepts none.
func (c *call) notForPush(t record.Target) error {
	message := "Repository is not available for push."
	if t.Distribution.Pinned == nil && t.Repository.RemoteID != "" {
		message += " It mirrors a remote; the setting mirror.allow_push permits pushes."
	}
	return newError(http.StatusBadRequest, "NAME_INVALID", message, map[string]string{"name": c.name})
}
