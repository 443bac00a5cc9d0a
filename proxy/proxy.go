// Package proxy implements the registry API for clients: /v2/ (OCI distribution specification 1.1), the token service
// at /token/, and the signature endpoint at /extensions/v2/.
//
// It contains the rules of the protocol: names, scopes, ranges, digests, exclusive access to uploads, limits and
// errors. Package storage stores the bytes of blobs, internal/store everything else, and internal/ingest validates
// signatures.
package proxy

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/ingest"
	"github.com/countersign/countersign/internal/pullthrough"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/signonpush"
	"github.com/countersign/countersign/internal/signservice"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/telemetry"
	"github.com/countersign/countersign/storage"
)

// Options are the dependencies and settings of the registry.
type Options struct {
	Store   *store.Store
	Auth    *auth.Auth
	Tokens  *auth.Tokens
	Access  *access.Decider // nil: one over Store, without rules for CI tokens
	Storage storage.Storage
	// SignOnPush runs changes of repositories that sign on push. nil disables signing on push.
	SignOnPush *signonpush.Runner
	Log        *slog.Logger
	Audit      *audit.Log // nil: the entries go to Log
	// PublicURL is the URL that clients use: scheme://host[:port]. See compatibility.md#public-url.
	PublicURL *url.URL
	// PushType is the type of the repositories that pushes create. See compatibility.md#push-repository-type.
	PushType pulp.RepositoryType
	// AnonymousPull determines how callers without an account may read public repositories. The zero value means
	// AnonymousPullOff.
	AnonymousPull auth.AnonymousPull
	// TokensOnly rejects Basic credentials on /v2/ and /extensions/. The token service accepts them anyway.
	TokensOnly bool
	// RequireIndexChildren rejects an index that references absent manifests. See compatibility.md#absent-parts.
	RequireIndexChildren bool
	// PushToMirrors permits pushes to repositories that have a remote.
	PushToMirrors bool
	// Fetcher fetches blobs that a sync deferred; nil if this server does not sync.
	Fetcher *ingest.BlobFetcher
	// RefuseUnknownKeys rejects signatures by keys of no signing service. See compatibility.md#uploaded-signatures.
	RefuseUnknownKeys bool
	// SignatureValidated receives the result for each signature that clients upload; nil: nothing does.
	SignatureValidated func(ingest.Validation)
	// InlineLimit is the maximum size in bytes of a blob that is stored in the database; 0 stores none there.
	InlineLimit int64
	// PassThroughRedirects redirects clients to the URL of a blob if the storage returns one.
	PassThroughRedirects bool
	// PullThrough fetches content of pull-through caches; nil: caches serve what they have.
	PullThrough *pullthrough.Cache
	// PullThroughAnonymous lets callers without an account make public caches fetch content, if AnonymousPull lets them
	// read public repositories.
	PullThroughAnonymous bool
	// Adopt stores the manifest that the upstream has under a repository name and a tag or digest, on behalf of a
	// user. It reports whether the caller should look the manifest up again. With absentOnly it does nothing if a
	// repository with the name exists, and its result does not reveal that. nil disables adoption by pulls.
	Adopt func(ctx context.Context, user, name, reference string, absentOnly bool) (bool, error)
	// ForeignTag returns the digest that another client of the upstream has pushed there under a tag of a repository,
	// after adopting it on behalf of a user if tags are followed. The digest is empty, so that only the transaction of
	// the change checks its precondition, if the upstream has the same manifest as this server, a late write of this
	// server, or no such tag; and, without asking the upstream, if the tag waits in the outbox, is a pin tag, or belongs
	// to a mirror. nil if there is no upstream.
	ForeignTag func(ctx context.Context, user string, repo pulp.Repository, tag string) (digest.Digest, error)
	// AdoptPublic makes the repositories that Adopt creates public.
	AdoptPublic bool
}

// registry is the handler. It is safe for concurrent use.
type registry struct {
	Options
	manifests storage.Manifests // nil if the storage is not an upstream registry
	blobs     ingest.Blobs
	recent    recent
	validator ingest.SignatureValidator
	writers   *writers
	origins   *auth.Origins
}

// New returns the handler for /v2/, /token/ and /extensions/v2/. It panics if PublicURL is not scheme://host[:port].
func New(o Options) http.Handler {
	if o.Access == nil && o.Store != nil {
		o.Access = o.Store.Accounts.NewDecider(nil)
	}
	origins, err := auth.NewOrigins(o.PublicURL)
	if err != nil {
		panic(err)
	}
	o.Audit = audit.Or(o.Audit, o.Log)
	g := &registry{Options: o, recent: newRecent(), writers: newWriters(), origins: origins}
	g.manifests, _ = o.Storage.(storage.Manifests)
	g.blobs = ingest.Blobs{Storage: o.Storage, Inline: o.InlineLimit, Foreign: g.manifests != nil}
	g.validator = ingest.SignatureValidator{Store: o.Store, RefuseUnknown: o.RefuseUnknownKeys, Observe: o.SignatureValidated}
	return g
}

// call is the state of one request.
type call struct {
	*registry
	w      http.ResponseWriter
	r      *http.Request
	kind   routeKind
	name   string // the repository name in the path; empty if the route has none
	ref    string // the tag, digest or upload id in the path; empty if the route has none
	caller caller

	failureAudited bool // the failure of the request has an audit entry
}

// handler responds to one kind of request. If it returns an error it has written nothing; the caller responds with the
// error.
type handler func(*call) error

// ServeHTTP implements http.Handler.
func (g *registry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &call{registry: g, w: w, r: r}
	h := w.Header()
	h.Set("Docker-Distribution-Api-Version", "registry/2.0")
	h.Set("X-Registry-Supports-Signatures", "1") // podman and skopeo require exactly this value
	h.Set("X-Content-Type-Options", "nosniff")
	if err := c.serve(); err != nil {
		c.auditFailure(err)
		c.writeError(err)
	}
}

func (c *call) serve() error {
	route, err := parsePath(c.r.URL)
	if err != nil {
		return err
	}
	c.kind, c.name, c.ref = route.kind, route.name, route.ref
	telemetry.SetRoute(c.r.Context(), patterns[route.kind])
	if route.kind == routeRedirect {
		http.Redirect(
			c.w,
			c.r,
			(&url.URL{Path: c.r.URL.Path + "/", RawQuery: c.r.URL.RawQuery}).String(),
			http.StatusMovedPermanently,
		)
		return nil
	}
	if !c.origins.Allows(c.r) {
		return c.otherOrigin()
	}
	methods := handlers[route.kind]
	method := c.r.Method
	if method == http.MethodHead && methods[method] == nil {
		method = http.MethodGet
	}
	answer := methods[method]
	if answer == nil {
		return c.methodNotAllowed(methods)
	}
	if route.kind == routeToken {
		return answer(c)
	}
	if err := c.authenticate(); err != nil {
		return err
	}
	c.identify()
	return answer(c)
}

// handlers maps each kind of route to its methods. HEAD uses the handler of GET.
var handlers = map[routeKind]map[string]handler{
	routeToken:   {http.MethodGet: (*call).getToken, http.MethodPost: (*call).postToken},
	routeBase:    {http.MethodGet: (*call).getBase},
	routeCatalog: {http.MethodGet: (*call).getCatalog},
	routeTags:    {http.MethodGet: (*call).getTags},
	routeUploads: {http.MethodPost: (*call).startUpload},
	routeUpload: {
		http.MethodGet:    (*call).getUpload,
		http.MethodPatch:  (*call).patchUpload,
		http.MethodPut:    (*call).putUpload,
		http.MethodDelete: (*call).deleteUpload,
	},
	routeBlob: {http.MethodGet: (*call).getBlob, http.MethodDelete: (*call).deleteBlob},
	routeManifest: {
		http.MethodGet:    (*call).getManifest,
		http.MethodPut:    (*call).putManifest,
		http.MethodDelete: (*call).deleteManifest,
	},
	routeReferrers:  {http.MethodGet: (*call).getReferrers},
	routeSignatures: {http.MethodGet: (*call).getSignatures, http.MethodPut: (*call).putSignature},
}

// getBase handles GET /v2/, by which clients detect the registry and verify their credentials.
func (c *call) getBase() error {
	if !c.caller.authenticated {
		return c.challenge(errUnauthenticated, "")
	}
	return c.writeJSON(http.StatusOK, struct{}{})
}

// withSignatures runs a change that may make tags visible. In a repository that signs on push the tags are signed
// before.
func (c *call) withSignatures(change func(context.Context) error) error {
	if c.SignOnPush == nil {
		return change(c.r.Context())
	}
	return c.SignOnPush.Run(c.r.Context(), signservice.Caller{User: c.caller.name()}, change)
}
