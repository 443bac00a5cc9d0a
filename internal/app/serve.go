package app

import (
	"context"
	"crypto/ecdsa"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/countersign/countersign/api"
	"github.com/countersign/countersign/config"
	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/clientaddr"
	"github.com/countersign/countersign/internal/ingest"
	"github.com/countersign/countersign/internal/pace"
	"github.com/countersign/countersign/internal/pullthrough"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/telemetry"
	"github.com/countersign/countersign/proxy"
	"github.com/countersign/countersign/tasks/jobs"
)

const (
	// housekeepingInterval is the time between two runs of the housekeeper.
	housekeepingInterval = 10 * time.Minute
	// maxFetchDelay is the time for which a slow client may delay the fetch of a blob. Then the fetch goes on without
	// the client, which receives the rest when it ends.
	maxFetchDelay = 30 * time.Second
)

// untraced are the paths of health checks, which would fill the traces.
var untraced = []string{"/pulp/api/v3/livez/", "/pulp/api/v3/readyz/"}

// Greeting is the output of a server's start.
type Greeting struct {
	Out io.Writer
	// Command is the path of the program as the operator called it.
	Command string
	// SettingsFile is the path of the YAML file with settings, or "".
	SettingsFile string
}

// Serve runs the registry, the API and, unless the settings say otherwise, workers, until ctx ends. It then waits up
// to the shutdown grace period for requests and tasks. It writes the greeting, with a generated password, when the
// server accepts connections.
func (a *App) Serve(ctx context.Context, g Greeting) error {
	if err := a.checkPlainHTTP(ctx); err != nil {
		return err
	}
	secure, err := a.openTLS(ctx)
	if err != nil {
		return err
	}
	s, release, err := a.openForServing(ctx)
	if err != nil {
		return err
	}
	defer release()
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", a.config.Listen)
	if err != nil {
		return fmt.Errorf("%w; set COUNTERSIGN_LISTEN to use another address", err)
	}
	defer func() { _ = listener.Close() }()
	monitor, err := a.openMonitoring(ctx)
	if err != nil {
		return err
	}
	defer monitor.close()
	e, err := a.buildEngine(ctx, s)
	if err != nil {
		return err
	}
	defer e.queue.Close()
	defer a.closeAudit(ctx, e.audit)
	handler, err := a.handler(ctx, s, e)
	if err != nil {
		return err
	}
	if err := a.ensureService(ctx, s, e.signers, e.audit); err != nil {
		return err
	}
	if err := a.warnAtStart(ctx, s); err != nil {
		return err
	}
	// The password comes last because it is shown only once: later failures would lose it.
	password, err := a.ensureAdmin(ctx, s, e.users, e.audit)
	if err != nil {
		return err
	}
	a.greet(g, password)
	return a.observe(ctx, s, e, secure, monitor, func(ctx context.Context) error {
		return a.run(ctx, &server{
			handler: handler, listener: listener, tls: secure, worker: e.worker, background: a.backgroundJobs(s, e),
		})
	})
}

// backgroundJobs returns the functions that run besides requests and tasks until their context ends.
func (a *App) backgroundJobs(s *store.Store, e *engine) []func(context.Context) {
	c := a.config
	keeper := jobs.Housekeeper{Store: s, Storage: e.storage, Log: a.log, Embedded: e.upstream == nil, Keep: jobs.Retention{
		Uploads: c.Retention.Uploads, Pending: c.Retention.Pending, Orphans: c.Retention.Orphans, Tasks: c.Retention.Tasks,
		Audit: c.Audit.Retention, Events: c.Webhooks.Retention,
	}, Swept: a.metrics.Swept}
	all := []func(context.Context){func(ctx context.Context) { keeper.Run(ctx, housekeepingInterval) }}
	if e.people != nil {
		all = append(all, e.people.Run)
	}
	if e.webhooks != nil {
		all = append(all, e.webhooks.Run)
	}
	if e.upstream == nil {
		return all
	}
	all = append(all, jobs.Outbox{Store: s, Upstream: e.upstream, Log: a.log, Adopter: e.adopter}.Run)
	if every := c.Upstream.CompareEvery; every > 0 {
		all = append(all, jobs.Comparer{Store: s, Adopter: e.adopter, Log: a.log, Every: every}.Run)
	}
	return all
}

// handler returns the handler of all requests.
func (a *App) handler(ctx context.Context, s *store.Store, e *engine) (http.Handler, error) {
	c := a.config
	tokens, err := a.tokens(ctx, s)
	if err != nil {
		return nil, err
	}
	if len(c.OIDC.Rules) > 0 {
		e.users.AcceptIDTokens(&auth.IDTokens{Verifier: e.idTokens, Accounts: s.Accounts, Tokens: tokens})
	}
	logins, err := a.personLogins(s, e, tokens)
	if err != nil {
		return nil, err
	}
	rest := api.New(api.Options{
		Logins: logins, Store: s, Auth: e.users, Access: e.access, Tasks: e.dispatcher, Log: a.log, Audit: e.audit, Redis: e.queue.Ping, PublicURL: c.Public(), Process: e.process, DataDir: c.Data,
		Version: a.version, SignLists: c.SignLists, SigningUse: a.signingUse(), Ready: e.storage.Ping, Upstream: e.upstream != nil,
		Verified: func(v api.Verification) { a.metrics.Verified(string(v)) },
	})
	proxies, err := c.Proxies()
	if err != nil {
		return nil, err
	}
	observed := telemetry.Observe(route(a.registry(s, e, tokens), rest), a.metrics)
	if e.tracing != nil {
		observed = telemetry.Trace(observed, telemetry.TraceOptions{
			Tracer: e.tracing.Tracer(), AcceptParent: c.Tracing.AcceptParent, Skip: untraced,
		})
	}
	paced := pace.Handler(observed, pace.Options{Log: a.log})
	return telemetry.Correlate(clientaddr.New(proxies, a.log).Handler(paced)), nil
}

// registry returns the handler of the registry protocol.
func (a *App) registry(s *store.Store, e *engine, tokens *auth.Tokens) http.Handler {
	c := a.config
	o := proxy.Options{
		Store: s, Auth: e.users, Access: e.access, Tokens: tokens, Storage: e.storage, SignOnPush: e.signOnPush, Log: a.log, Audit: e.audit, PublicURL: c.Public(),
		PushType: pulp.RepositoryType(c.PushRepositoryType), AnonymousPull: auth.AnonymousPull(c.AnonymousPull),
		TokensOnly: !c.Registry.BasicAuth, PushToMirrors: c.Mirror.AllowPush,
		RequireIndexChildren: c.RequireIndexChildren, RefuseUnknownKeys: c.Signatures.UnknownKeys == "refuse",
		SignatureValidated:   a.observeValidation(sourceClient),
		PassThroughRedirects: c.Upstream.Redirects == config.RedirectsPassThrough, InlineLimit: e.blobs.Inline,
		Fetcher: &ingest.BlobFetcher{
			Store: s, Blobs: e.blobs, Mirror: e.network, Log: a.log, Idle: maxFetchDelay, Limits: ingest.Limits{Total: c.Mirror.BlobTimeout},
		},
	}
	o.PullThrough, o.PullThroughAnonymous = a.pullThrough(s, e), c.PullThrough.Anonymous
	if e.adopter != nil {
		o.ForeignTag = e.adopter.SettleTag
		if c.Upstream.AdoptOnPull {
			o.Adopt, o.AdoptPublic = e.adopter.Pulled, c.Upstream.AdoptPublic
		}
	}
	return proxy.New(o)
}

// pullThrough returns the cache of all pull-through distributions.
func (a *App) pullThrough(s *store.Store, e *engine) *pullthrough.Cache {
	c := a.config
	return pullthrough.New(pullthrough.Options{
		Store: s, Network: e.network, Blobs: e.blobs, Upstream: e.upstream, SignOnPush: e.signOnPush, Access: e.access,
		Validator: ingest.SignatureValidator{Store: s, RefuseUnknown: c.Signatures.UnknownKeys == "refuse", Observe: a.observeValidation(sourceRemote)},
		Log:       a.log, Audit: e.audit, Freshness: c.PullThrough.Freshness, RemoveMissing: c.PullThrough.RemoveMissing,
		NewPerMinute: c.PullThrough.NewPerMinute,
	})
}

// tokens returns the issuer of bearer tokens, with the configured key or the one stored in the database.
func (a *App) tokens(ctx context.Context, s *store.Store) (*auth.Tokens, error) {
	c := a.config
	var key *ecdsa.PrivateKey
	var err error
	if file := c.Token.PrivateKeyFile; file != "" {
		a.warnOfReadableSecret(ctx, "token.private_key_file", file)
		key, err = auth.ReadKey(file, c.Token.PublicKeyFile)
	} else {
		key, err = auth.KeptKey(ctx, s.DB)
	}
	if err != nil {
		return nil, err
	}
	return auth.NewTokens(key, c.Public().String()+"/token/", c.Public().Host, c.Token.Lifetime)
}

// route returns a handler that passes the paths of the registry to one handler and all others to the REST API.
func route(registry, rest http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, prefix := range []string{"/v2", "/extensions/v2", "/token"} {
			if r.URL.Path == prefix || strings.HasPrefix(r.URL.Path, prefix+"/") {
				registry.ServeHTTP(w, r)
				return
			}
		}
		rest.ServeHTTP(w, r)
	})
}
