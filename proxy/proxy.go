// Package proxy is the registry as clients speak to it: /v2/ (OCI distribution specification 1.1), its tokens at /token/, and the
// signatures' extension at /extensions/v2/.
//
// The rules of the protocol live here, once: names, scopes, ranges, digests, who owns an upload, limits, errors. Bytes are behind
// storage.Storage, everything else is in the store; signatures are judged by signing.
package proxy

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/ingest"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/signonpush"
	"github.com/countersign/countersign/internal/signservice"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/storage"
)

// Options say what the registry needs.
type Options struct {
	Store   *store.Store
	Auth    *auth.Auth
	Tokens  *auth.Tokens
	Storage storage.Storage
	// SignOnPush runs the pushes to repositories that sign on push. It is nil when no repository does.
	SignOnPush *signonpush.Runner
	Log        *slog.Logger
	// PublicURL is what clients type: scheme://host[:port] (D5, D16).
	PublicURL *url.URL
	// PushType is the type of the repositories that pushes create (D1).
	PushType pulp.RepositoryType
	// AnonymousPull says how callers without an account may read public repositories. The zero value is AnonymousPullOff.
	AnonymousPull auth.AnonymousPull
	// TokensOnly refuses Basic credentials on /v2/ and /extensions/; the token service takes them all the same.
	TokensOnly bool
	// RequireIndexChildren refuses an index that names absent manifests (D11).
	RequireIndexChildren bool
	// PushToMirrors lets clients push to repositories that are mirrored from a remote.
	PushToMirrors bool
	// Fetcher fetches blobs that a sync deferred; nil if this server does not sync.
	Fetcher *ingest.BlobFetcher
	// RefuseUnknownKeys refuses signatures by keys that no signing service has (D6).
	RefuseUnknownKeys bool
	// InlineLimit is how many bytes a blob may have to be kept in the database; 0 keeps none there.
	InlineLimit int64
	// HandOnRedirects tells clients where else a blob's bytes are, where the storage says so.
	HandOnRedirects bool
	// Adopt takes what the upstream has under a repository's name and a tag or digest, and says whether to look again for it here; nil: pulls do not adopt. With absentOnly it
	// changes nothing under a name that exists, and tells nobody that it does.
	Adopt func(ctx context.Context, who, name, reference string, absentOnly bool) (bool, error)
	// Current finds out what an upstream shows under a tag that somebody else has pushed there, empty when nobody has, and may adopt it; nil: there is no upstream.
	Current func(ctx context.Context, who string, repo pulp.Repository, tag string) (digest.Digest, error)
	// AdoptPublic says that everybody may read the repositories that Adopt makes.
	AdoptPublic bool
}

// registry is the handler. It is safe for concurrent use.
type registry struct {
	Options
	manifests storage.Manifests // nil unless the storage is a registry of its own
	blobs     ingest.Blobs
	recent    recent
	validator ingest.SignatureValidator
	writers   *writers
	origins   *auth.Origins
}

// New returns the handler for /v2/, /token/ and /extensions/v2/. It panics when PublicURL is no scheme://host[:port].
func New(o Options) http.Handler {
	origins, err := auth.NewOrigins(o.PublicURL)
	if err != nil {
		panic(err)
	}
	g := &registry{Options: o, writers: newWriters(), origins: origins}
	g.manifests, _ = o.Storage.(storage.Manifests)
	g.blobs = ingest.Blobs{Storage: o.Storage, Inline: o.InlineLimit, Foreign: g.manifests != nil}
	g.validator = ingest.SignatureValidator{Store: o.Store, RefuseUnknown: o.RefuseUnknownKeys}
	return g
}

// call is one request on its way through the registry.
type call struct {
	*registry
	w    http.ResponseWriter
	r    *http.Request
	kind routeKind
	name string // the repository's path; empty where there is none
	ref  string // a tag, a digest or an upload's id; empty where there is none
	who  bearer
}

// handler answers one kind of request. What it returns is answered as an error; it has then written nothing.
type handler func(*call) error

// ServeHTTP implements http.Handler.
func (g *registry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &call{registry: g, w: w, r: r}
	h := w.Header()
	h.Set("Docker-Distribution-Api-Version", "registry/2.0")
	h.Set("X-Registry-Supports-Signatures", "1") // podman and skopeo look for exactly this (contract 3)
	h.Set("X-Content-Type-Options", "nosniff")
	if err := c.serve(); err != nil {
		c.fail(err)
	}
}

func (c *call) serve() error {
	route, err := parsePath(c.r.URL)
	if err != nil {
		return err
	}
	c.kind, c.name, c.ref = route.kind, route.name, route.ref
	if route.kind == routeRedirect {
		http.Redirect(c.w, c.r, (&url.URL{Path: c.r.URL.Path + "/", RawQuery: c.r.URL.RawQuery}).String(), http.StatusMovedPermanently)
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
	return answer(c)
}

// handlers are the methods of each kind of path.
var handlers = map[routeKind]map[string]handler{
	routeToken:      {http.MethodGet: (*call).getToken},
	routeBase:       {http.MethodGet: (*call).getBase},
	routeCatalog:    {http.MethodGet: (*call).getCatalog},
	routeTags:       {http.MethodGet: (*call).getTags},
	routeUploads:    {http.MethodPost: (*call).startUpload},
	routeUpload:     {http.MethodGet: (*call).getUpload, http.MethodPatch: (*call).patchUpload, http.MethodPut: (*call).putUpload, http.MethodDelete: (*call).deleteUpload},
	routeBlob:       {http.MethodGet: (*call).getBlob, http.MethodDelete: (*call).deleteBlob},
	routeManifest:   {http.MethodGet: (*call).getManifest, http.MethodPut: (*call).putManifest, http.MethodDelete: (*call).deleteManifest},
	routeReferrers:  {http.MethodGet: (*call).getReferrers},
	routeSignatures: {http.MethodGet: (*call).getSignatures, http.MethodPut: (*call).putSignature},
}

// getBase answers GET /v2/: that this is a registry, and that the caller is known.
func (c *call) getBase() error {
	if !c.who.authenticated {
		return c.challenge(errUnknownCaller, "")
	}
	return c.answerJSON(http.StatusOK, struct{}{})
}

// audit writes the line that every mutation leaves: who, what, on what, with which result.
func (c *call) audit(action string, err error, facts ...slog.Attr) {
	attrs := append([]slog.Attr{
		slog.String("who", c.who.name()), slog.String("action", action), slog.String("repository", c.name),
	}, facts...)
	if err != nil {
		attrs = append(attrs, slog.String("result", "refused"), slog.Any("err", err))
	} else {
		attrs = append(attrs, slog.String("result", "done"))
	}
	c.Log.LogAttrs(c.r.Context(), slog.LevelInfo, "audit", attrs...)
}

// sealed runs a change that may make tags visible, which some repositories want signed first.
func (c *call) sealed(change func(context.Context) error) error {
	if c.SignOnPush == nil {
		return change(c.r.Context())
	}
	return c.SignOnPush.Run(c.r.Context(), signservice.Caller{User: c.who.name()}, change)
}
