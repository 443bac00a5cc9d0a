package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
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
	"github.com/countersign/countersign/internal/adopt"
	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/intake"
	"github.com/countersign/countersign/internal/mirror"
	"github.com/countersign/countersign/internal/notary"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/telemetry"
	"github.com/countersign/countersign/proxy"
	"github.com/countersign/countersign/signing/script"
	"github.com/countersign/countersign/storage"
	"github.com/countersign/countersign/storage/embedded"
	"github.com/countersign/countersign/storage/upstream"
	"github.com/countersign/countersign/tasks"
	"github.com/countersign/countersign/tasks/jobs"
	"github.com/countersign/countersign/tasks/memqueue"
	"github.com/countersign/countersign/tasks/redisqueue"
)

// How the HTTP server treats connections.
const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	maxHeader     = 64 << 10
)

// cleanEvery is how often the housekeeper looks around.
const cleanEvery = 10 * time.Minute

type serveCommand struct{}

// Run serves until the program is told to stop.
func (serveCommand) Run(p *program) error {
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
	// Last, when nothing can fail any more: a password that is made is shown this once.
	password, err := p.ensureAdmin(s, users)
	if err != nil {
		return err
	}
	p.greet(password)
	return p.serve(srv, listener)
}

// openForServing opens the database: SQLite as its only owner, PostgreSQL beside others. release closes it.
func (p *program) openForServing() (s *store.Store, release func(), err error) {
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
func (p *program) openOwned() (*store.Store, error) {
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

// engine is what both a server and a worker run: the storage, the way to remotes, the queue, and the worker on it.
type engine struct {
	process  string // <pid>@<host>
	storage  storage.Storage
	upstream storage.Manifests // nil without one
	blobs    intake.Blobs
	network  *mirror.Network
	queue    queue
	worker   *tasks.Worker

	dispatcher *tasks.Dispatcher
	notary     *notary.Notary
	adopter    *adopt.Adopter // nil without an upstream
}

// queue is the task queue with what the program does to it beside the tasks: ping is nil where it is in the process.
type queue struct {
	tasks.Queue
	ping  func(context.Context) error
	close func()
}

// buildEngine makes the rooms that work and ties them together.
func (p *program) buildEngine(s *store.Store) (*engine, error) {
	c := p.config
	e := &engine{}
	var err error
	if e.storage, err = p.openStorage(); err != nil {
		return nil, err
	}
	if err := e.storage.Ping(p.ctx); err != nil {
		p.log.WarnContext(p.ctx, "the storage does not answer; pushes and pulls will fail until it does", slog.Any("err", err))
	}
	upstreamManifests, inFront := e.storage.(storage.Manifests)
	if err := p.sameStorage(s, inFront); err != nil {
		return nil, err
	}
	if e.upstream = upstreamManifests; inFront {
		s.KeepOutbox()
	}
	if e.network, err = p.network(); err != nil {
		return nil, err
	}
	e.blobs = intake.Blobs{Storage: e.storage, Foreign: inFront}
	if !inFront {
		e.blobs.Inline = inlineLimit
	}
	results, err := api.Results(p.ctx, s)
	if err != nil {
		return nil, err
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("host name: %w", err)
	}
	e.process = fmt.Sprintf("%d@%s", os.Getpid(), host)
	if e.queue, err = p.openQueue(); err != nil {
		return nil, err
	}
	signers := p.newSigners()
	s.Seal(store.Sealing{Host: c.Public().Host, Lists: c.SignLists, Service: c.Signing.ServiceOnPush})
	e.notary = &notary.Notary{
		Store: s, Log: p.log, SignerFor: signers.signer, Usable: func(v pulp.SigningService) bool { return signers.usable(v) == nil },
		Parallel: c.Signing.Parallel, Timeout: c.Signing.OnPushTimeout, AcceptUnsigned: c.Signing.OnPushFailure == "accept",
	}
	if inFront {
		e.adopter = &adopt.Adopter{
			Store: s, Upstream: e.upstream, Blobs: e.blobs, Notary: e.notary, Log: p.log,
			Type: pulp.RepositoryType(c.PushRepositoryType), Public: c.Upstream.AdoptPublic, Follow: c.Upstream.Follow, Keep: c.Upstream.KeepManifests,
		}
	}
	e.worker = tasks.NewWorker(tasks.WorkerOptions{
		Store: s, Queue: e.queue, Log: p.log, Slots: c.Workers, Name: e.process, Versions: api.Versions(version), Show: results,
		Usable: func(ctx context.Context) ([]pulp.SigningService, error) { return signers.all(ctx, s) }, Lease: c.TaskLease,
		Jobs: jobs.All(jobs.Options{
			Store: s, Log: p.log, Host: c.Public().Host, Parallel: c.Signing.Parallel, Mirror: e.network, Blobs: e.blobs, Upstream: e.upstream,
			Judge:  intake.Judge{Store: s, RefuseUnknown: c.Signatures.UnknownKeys == "refuse"},
			Notary: e.notary, Adopter: e.adopter,
		}),
	})
	e.dispatcher = tasks.NewDispatcher(s, e.queue, e.worker, p.log)
	e.notary.Dispatch, e.notary.Cancel = e.dispatcher.Dispatch, e.dispatcher.Cancel
	return e, nil
}

// Where the bytes of a database's blobs lie.
const (
	inFiles    = "storage of its own"
	inUpstream = "an upstream registry"
)

// sameStorage refuses storage in which the blobs that the database knows are not: it would know images that nobody can pull.
func (p *program) sameStorage(s *store.Store, inFront bool) error {
	is, help := inFiles, "set COUNTERSIGN_UPSTREAM_URL"
	if inFront {
		is, help = inUpstream, "unset COUNTERSIGN_UPSTREAM_URL"
	}
	blobs, front, err := s.KnowsBlobs(p.ctx)
	if err != nil {
		return err
	}
	was, err := s.SettingOrCreate(p.ctx, "storage", func() ([]byte, error) {
		switch { // databases from before it was written down
		case front:
			return []byte(inUpstream), nil
		case blobs:
			return []byte(inFiles), nil
		}
		return []byte(is), nil
	})
	if err != nil || string(was) == is {
		return err
	}
	if !blobs {
		return s.PutSetting(p.ctx, "storage", []byte(is))
	}
	return fmt.Errorf("the images of this database lie in %s, and this configuration is for %s: %s, or begin with a data directory and a database of their own (COUNTERSIGN_DATA) and copy the images there", was, is, help)
}

// openQueue opens the queue: in the process, or on Redis, which need not answer yet.
func (p *program) openQueue() (queue, error) {
	c := p.config
	if c.RedisURL == "" {
		return queue{Queue: &memqueue.Queue{}, close: func() {}}, nil
	}
	o := redisqueue.Options{URL: c.RedisURL.Reveal(), Prefix: c.Redis.Prefix, Cluster: c.Redis.Cluster, Log: p.log}
	if c.Redis.CAFile != "" {
		pem, err := os.ReadFile(c.Redis.CAFile)
		if err != nil {
			return queue{}, fmt.Errorf("redis.ca_file: %w", err)
		}
		roots, err := x509.SystemCertPool()
		if err != nil {
			roots = x509.NewCertPool()
		}
		if !roots.AppendCertsFromPEM(pem) {
			return queue{}, errors.New("redis.ca_file: no certificate in it")
		}
		o.TLS = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	q, err := redisqueue.New(p.ctx, o)
	if err != nil {
		return queue{}, fmt.Errorf("redis_url: %w", err)
	}
	return queue{q, q.Ping, func() { _ = q.Close() }}, nil
}

// build makes the rooms of a server and ties them together.
func (p *program) build(s *store.Store, users *auth.Auth) (*server, error) {
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
	registry, err := p.registry(s, users, e, &intake.Filler{Store: s, Blobs: e.blobs, Mirror: e.network, Log: p.log, Idle: fillIdle})
	if err != nil {
		return nil, err
	}
	rest := api.New(api.Options{
		Store: s, Auth: users, Tasks: e.dispatcher, Log: p.log, Redis: e.queue.ping,
		PublicURL: c.Public(), Process: e.process, DataDir: c.Data, Version: version, SignLists: c.SignLists, Ready: e.storage.Ping, Upstream: e.upstream != nil,
	})
	srv.handler = telemetry.Correlate(route(registry, rest))
	return srv, nil
}

// fillIdle is how long a client may take no bytes of a blob that is being fetched, before the blob is fetched without it.
const fillIdle = 30 * time.Second

// network reaches remotes, at the addresses that are allowed (D20).
func (p *program) network() (*mirror.Network, error) {
	allowed, err := p.config.Mirror.Prefixes()
	if err != nil {
		return nil, err
	}
	return mirror.New(mirror.Options{AllowPrivate: allowed, UserAgent: "countersign/" + version, Log: p.log}), nil
}

func (p *program) openStorage() (storage.Storage, error) {
	c := p.config
	if c.UpstreamURL == "" {
		return embedded.New(p.ctx, embedded.Options{Driver: c.Storage.Driver, Parameters: c.Storage.Parameters})
	}
	return upstream.New(upstream.Options{
		URL: c.UpstreamURL, Prefix: c.Upstream.Prefix, Username: c.Upstream.Username, Password: c.Upstream.Password.Reveal(), PasswordFile: c.Upstream.PasswordFile,
		Token: c.Upstream.Token.Reveal(), TokenHosts: c.Upstream.TokenHosts,
		CAFile: c.Upstream.CAFile, InsecureSkipVerify: c.Upstream.InsecureSkipVerify,
	})
}

// inlineLimit is how many bytes a blob may have to be kept in the database, durable with its own 201 (architecture 1).
const inlineLimit = 16 << 10

func (p *program) registry(s *store.Store, users *auth.Auth, e *engine, filler *intake.Filler) (http.Handler, error) {
	c := p.config
	tokens, err := p.tokens(s)
	if err != nil {
		return nil, err
	}
	o := proxy.Options{
		Store: s, Auth: users, Tokens: tokens, Storage: e.storage, Notary: e.notary, Log: p.log, PublicURL: c.Public(),
		PushType: pulp.RepositoryType(c.PushRepositoryType), AnonymousPull: c.AnonymousPull,
		PushToMirrors: c.Mirror.AllowPush, Filler: filler,
		RequireIndexChildren: c.RequireIndexChildren, RefuseUnknownKeys: c.Signatures.UnknownKeys == "refuse",
	}
	o.HandOnRedirects = c.Upstream.Redirects == "hand_on"
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
func (p *program) tokens(s *store.Store) (*auth.Tokens, error) {
	c := p.config
	read := func() (*ecdsa.PrivateKey, error) { return auth.KeptKey(p.ctx, s) }
	if c.Token.PrivateKeyFile != "" {
		read = func() (*ecdsa.PrivateKey, error) { return auth.ReadKey(c.Token.PrivateKeyFile, c.Token.PublicKeyFile) }
	}
	key, err := read()
	if err != nil {
		return nil, err
	}
	return auth.NewTokens(key, c.PublicURL+"/token/", c.Public().Host, c.Token.Lifetime)
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
func (p *program) serve(srv *server, listener net.Listener) error {
	httpServer := &http.Server{
		Handler: srv.handler, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
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

func (p *program) listen(s *http.Server, l net.Listener) error {
	if t := p.config.TLS; t.CertFile != "" {
		return s.ServeTLS(l, t.CertFile, t.KeyFile)
	}
	return s.Serve(l)
}

// greet tells the operator where the server is, where its data are, how to log in and what to type next. password is what this start has
// made for admin; empty when it made none.
func (p *program) greet(password string) {
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
	if strings.HasPrefix(c.PublicURL, "http:") {
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
`, version, c.Listen, host, c.Data, where, adminName, login, verify, c.PublicURL, verb)
}
