package app

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/countersign/countersign/api"
	"github.com/countersign/countersign/config"
	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/clientaddr"
	"github.com/countersign/countersign/internal/ingest"
	"github.com/countersign/countersign/internal/pace"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/safefile"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/telemetry"
	"github.com/countersign/countersign/proxy"
	"github.com/countersign/countersign/signing/script"
	"github.com/countersign/countersign/tasks"
	"github.com/countersign/countersign/tasks/jobs"
)

// How the HTTP server treats connections.
const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	maxHeader     = 64 << 10

	// Of HTTP/2: requests of a connection at a time, and how long a connection may take no bytes or not answer to a ping.
	maxStreams   = 100
	writeTimeout = 2 * time.Minute
	pingAfter    = time.Minute
	pingTimeout  = 15 * time.Second
)

// cleanEvery is how often the housekeeper looks around.
const cleanEvery = 10 * time.Minute

type ServeCommand struct{}

// Run serves until the program is told to stop.
func (ServeCommand) Run(p *Program) error {
	s, release, err := p.openForServing()
	if err != nil {
		return err
	}
	defer release()
	listener, err := (&net.ListenConfig{}).Listen(p.ctx, "tcp", p.config.Listen)
	if err != nil {
		return fmt.Errorf("%w; another address is set with COUNTERSIGN_LISTEN", err)
	}
	defer func() { _ = listener.Close() }()
	users := auth.New(s)
	users.Log = p.log
	srv, err := p.build(s, users)
	if err != nil {
		return err
	}
	defer srv.close()
	if err := p.ensureService(s); err != nil {
		return err
	}
	if err := p.warnOfFormerHosts(s); err != nil {
		return err
	}
	if err := p.listEarlierAssignments(s); err != nil {
		return err
	}
	if err := p.warnOfAbsentServices(s); err != nil {
		return err
	}
	// Last, when nothing can fail any more: a password that is made is shown this once.
	password, err := p.ensureAdmin(s, users)
	if err != nil {
		return err
	}
	p.greet(password)
	return p.serve(srv, listener)
}

// openForServing opens the database: SQLite as its only owner, PostgreSQL beside others. release closes it.
func (p *Program) openForServing() (s *store.Store, release func(), err error) {
	if store.IsPostgres(p.config.DatabaseURL) {
		if err := os.MkdirAll(p.config.Data, 0o700); err != nil {
			return nil, nil, fmt.Errorf("data directory: %w", err)
		}
		if s, err = p.openShared(); err != nil {
			return nil, nil, err
		}
		return s, func() { _ = s.Close() }, script.Sweep(p.config.Signing.WorkDir, p.config.Signing.ScriptTimeout)
	}
	lock, err := store.LockDir(p.config.Data)
	if err != nil {
		return nil, nil, err
	}
	if err = script.Sweep(p.config.Signing.WorkDir, p.config.Signing.ScriptTimeout); err == nil {
		s, err = p.openOwned()
	}
	if err != nil {
		return nil, nil, errors.Join(err, lock.Release())
	}
	return s, func() { _ = s.Close(); _ = lock.Release() }, nil
}

// openOwned opens the database as its only owner: migrated, and without tasks and workers of a process that is gone.
func (p *Program) openOwned() (*store.Store, error) {
	s, err := store.Open(p.ctx, p.config.DatabaseURL)
	if err != nil {
		return nil, err
	}
	err = s.Migrate(p.ctx)
	if err == nil {
		_, err = s.ReclaimTasks(p.ctx, true)
	}
	if err == nil {
		err = s.RemoveWorker(p.ctx, "", true)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.Remember() // the lock on the data directory is held
	return s, nil
}

// server is everything that runs while the program serves.
type server struct {
	handler    http.Handler
	worker     *tasks.Worker
	workers    int
	background []func(context.Context)
	close      func()
}

// build makes the rooms of a server and ties them together.
func (p *Program) build(s *store.Store, users *auth.Auth) (*server, error) {
	c := p.config
	e, err := p.buildEngine(s)
	if err != nil {
		return nil, err
	}
	srv := &server{workers: c.Workers, worker: e.worker, close: e.queue.close}
	if e.upstream != nil {
		srv.background = append(srv.background, jobs.Outbox{Store: s, Upstream: e.upstream, Log: p.log, Adopter: e.adopter}.Run)
		if every := c.Upstream.CompareEvery; every > 0 {
			srv.background = append(srv.background, jobs.Comparer{Store: s, Adopter: e.adopter, Log: p.log, Every: every}.Run)
		}
	}
	keeper := jobs.Housekeeper{Store: s, Storage: e.storage, Log: p.log, Embedded: e.upstream == nil, Keep: jobs.Retention{
		Uploads: c.Retention.Uploads, Pending: c.Retention.Pending, Orphans: c.Retention.Orphans, Tasks: c.Retention.Tasks,
	}}
	srv.background = append(srv.background, func(ctx context.Context) { keeper.Run(ctx, cleanEvery) })
	registry, err := p.registry(s, users, e, &ingest.BlobFetcher{Store: s, Blobs: e.blobs, Mirror: e.network, Log: p.log, Idle: fillIdle, Limits: ingest.Limits{Total: c.Mirror.BlobTimeout}})
	if err != nil {
		return nil, err
	}
	rest := api.New(api.Options{
		Store: s, Auth: users, Tasks: e.dispatcher, Log: p.log, Redis: e.queue.ping,
		PublicURL: c.Public(), Process: e.process, DataDir: c.Data, Version: p.version, SignLists: c.SignLists, SigningUse: p.signingUse(), Ready: e.storage.Ping, Upstream: e.upstream != nil,
	})
	proxies, err := c.Proxies()
	if err != nil {
		return nil, err
	}
	paced := pace.Handler(route(registry, rest), pace.Options{Log: p.log})
	srv.handler = telemetry.Correlate(clientaddr.New(proxies, p.log).Handler(paced))
	return srv, nil
}

// fillIdle is how long a client may delay the fetch of a blob by taking its bytes slowly. Then the fetch goes on, and the client gets the rest at its end.
const fillIdle = 30 * time.Second

func (p *Program) registry(s *store.Store, users *auth.Auth, e *engine, fetcher *ingest.BlobFetcher) (http.Handler, error) {
	c := p.config
	tokens, err := p.tokens(s)
	if err != nil {
		return nil, err
	}
	o := proxy.Options{
		Store: s, Auth: users, Tokens: tokens, Storage: e.storage, SignOnPush: e.signOnPush, Log: p.log, PublicURL: c.Public(),
		PushType: pulp.RepositoryType(c.PushRepositoryType), AnonymousPull: auth.AnonymousPull(c.AnonymousPull), TokensOnly: !c.Registry.BasicAuth,
		PushToMirrors: c.Mirror.AllowPush, Fetcher: fetcher,
		RequireIndexChildren: c.RequireIndexChildren, RefuseUnknownKeys: c.Signatures.UnknownKeys == "refuse",
	}
	o.HandOnRedirects = c.Upstream.Redirects == config.RedirectsPassThrough
	if c.UpstreamURL == "" {
		o.InlineLimit = inlineLimit
	}
	if e.adopter != nil {
		o.Current = e.adopter.Current
		if c.Upstream.AdoptOnPull {
			o.Adopt, o.AdoptPublic = e.adopter.Pulled, c.Upstream.AdoptPublic
		}
	}
	return proxy.New(o), nil
}

// tokens returns the maker of bearer tokens: with the configured key, or the installation's own.
func (p *Program) tokens(s *store.Store) (*auth.Tokens, error) {
	c := p.config
	read := func() (*ecdsa.PrivateKey, error) { return auth.KeptKey(p.ctx, s) }
	if c.Token.PrivateKeyFile != "" {
		p.warnOfOpenSecret("token.private_key_file", c.Token.PrivateKeyFile)
		read = func() (*ecdsa.PrivateKey, error) { return auth.ReadKey(c.Token.PrivateKeyFile, c.Token.PublicKeyFile) }
	}
	key, err := read()
	if err != nil {
		return nil, err
	}
	return auth.NewTokens(key, c.Public().String()+"/token/", c.Public().Host, c.Token.Lifetime)
}

// route sends the registry's paths to the registry and the rest to the REST API.
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

// serve runs everything until the program is told to stop, and then lets requests and tasks end.
func (p *Program) serve(srv *server, listener net.Listener) error {
	httpServer := &http.Server{
		Handler: srv.handler, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		HTTP2:    &http.HTTP2Config{MaxConcurrentStreams: maxStreams, WriteByteTimeout: writeTimeout, SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
		ErrorLog: slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
	}
	group, ctx := errgroup.WithContext(p.ctx)
	group.Go(func() error {
		err := p.listen(httpServer, listener)
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		return err
	})
	group.Go(func() error {
		<-ctx.Done()
		p.log.InfoContext(p.ctx, "stopping")
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.config.ShutdownGrace)
		defer cancel()
		if err := httpServer.Shutdown(last); err != nil {
			return httpServer.Close()
		}
		return nil
	})
	if srv.workers > 0 {
		group.Go(func() error { return srv.worker.Run(ctx, p.config.ShutdownGrace) })
	}
	for _, job := range srv.background {
		group.Go(func() error { job(ctx); return nil })
	}
	return group.Wait()
}

// warnOfOpenSecret warns when others may read a file with a secret. Earlier versions did not look at the permissions of these files, and platforms
// mount them readable by all: the server starts.
func (p *Program) warnOfOpenSecret(setting, file string) {
	if err := safefile.CheckSecret(file, setting); errors.Is(err, safefile.ErrUnsafe) {
		p.log.WarnContext(p.ctx, "others may read a secret of the server", slog.String("setting", setting), slog.Any("err", err))
	}
}

func (p *Program) listen(s *http.Server, l net.Listener) error {
	if t := p.config.TLS; t.CertFile != "" {
		p.warnOfOpenSecret("tls.key_file", t.KeyFile)
		return s.ServeTLS(l, t.CertFile, t.KeyFile)
	}
	return s.Serve(l)
}

// greet tells the operator where the server is, where its data are, how to log in and what to type next. password is what this start has
// made for admin; empty when it made none.
func (p *Program) greet(password string) {
	c := p.config
	host := c.Public().Host
	login := "unchanged   (reset-admin-password makes another)"
	switch {
	case password != "":
		login = password + "   (shown this once; reset-admin-password makes another)"
	case c.AdminPassword != "":
		login = "as COUNTERSIGN_ADMIN_PASSWORD says"
	}
	where := c.Storage.Driver
	if c.UpstreamURL != "" {
		where = c.UpstreamURL
	}
	verb := p.path
	if p.file != "" {
		verb = "COUNTERSIGN_CONFIG=" + p.file + " " + verb
	} else if own, err := filepath.Abs(config.Default().Data); err != nil || own != c.Data {
		verb = "COUNTERSIGN_DATA=" + c.Data + " " + verb // the verbs work on the same data
	}
	verify := ""
	if c.Public().Scheme == "http" {
		verify = " --tls-verify=false"
	}
	_, _ = fmt.Fprintf(p.out, `Countersign %s
  listening on  %s   (clients type %s)
  data          %s   (blobs: %s)
  user          %s
  password      %s

Next:
  podman login%[8]s -u %[6]s %[3]s
  podman push%[8]s IMAGE %[3]s/team/app:1.0
  %[10]s add-signing-service NAME --openpgp-key FILE   (or: NAME SCRIPT KEYID)
  curl -u admin %[9]s/pulp/api/v3/repositories/container/container-push/
`, p.version, c.Listen, host, c.Data, where, adminName, login, verify, c.Public(), verb)
}
