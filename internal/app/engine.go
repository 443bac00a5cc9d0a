package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/countersign/countersign/api"
	"github.com/countersign/countersign/config"
	"github.com/countersign/countersign/internal/adopt"
	"github.com/countersign/countersign/internal/ingest"
	"github.com/countersign/countersign/internal/mirror"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/registryclient"
	"github.com/countersign/countersign/internal/signonpush"
	"github.com/countersign/countersign/internal/signservice"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/storage"
	"github.com/countersign/countersign/storage/embedded"
	"github.com/countersign/countersign/storage/upstream"
	"github.com/countersign/countersign/tasks"
	"github.com/countersign/countersign/tasks/jobs"
	"github.com/countersign/countersign/tasks/memqueue"
	"github.com/countersign/countersign/tasks/redisqueue"
)

// engine is what both a server and a worker run: the storage, the way to remotes, the queue, and the worker on it.
type engine struct {
	process  string // <pid>@<host>
	storage  storage.Storage
	upstream storage.Manifests // nil without one
	blobs    ingest.Blobs
	network  *mirror.Network
	queue    queue
	worker   *tasks.Worker

	dispatcher *tasks.Dispatcher
	signOnPush *signonpush.Runner
	adopter    *adopt.Adopter // nil without an upstream
}

// queue is the task queue with what the program does to it beside the tasks: ping is nil where it is in the process.
type queue struct {
	tasks.Queue
	ping  func(context.Context) error
	close func()
}

// buildEngine makes the rooms that work and ties them together.
func (p *Program) buildEngine(s *store.Store) (*engine, error) {
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
	e.blobs = ingest.Blobs{Storage: e.storage, Foreign: inFront}
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
	signers := p.newSigners()
	if err := signers.warnOfScripts(p.ctx, s); err != nil {
		return nil, err
	}
	if e.queue, err = p.openQueue(); err != nil {
		return nil, err
	}
	s.Seal(store.Sealing{Host: c.Public().Host, Lists: c.SignLists, Service: c.Signing.ServiceOnPush, Use: p.signingUse()})
	signer := &signservice.Signer{
		Store: s, Log: p.log, SignerFor: signers.signer, Usable: func(v pulp.SigningService) bool { return signers.usable(v) == nil },
		Parallel: c.Signing.Parallel,
	}
	e.signOnPush = &signonpush.Runner{
		Store: s, Log: p.log, Signer: signer, Timeout: c.Signing.OnPushTimeout, AcceptUnsigned: c.Signing.OnPushFailure == "accept",
	}
	if inFront {
		e.adopter = &adopt.Adopter{
			Store: s, Upstream: e.upstream, Blobs: e.blobs, SignOnPush: e.signOnPush, Log: p.log,
			Type: pulp.RepositoryType(c.PushRepositoryType), Public: c.Upstream.AdoptPublic, Follow: c.Upstream.Follow, Pin: c.Upstream.KeepManifests,
		}
	}
	e.worker = tasks.NewWorker(tasks.WorkerOptions{
		Store: s, Queue: e.queue, Log: p.log, Slots: c.Workers, Name: e.process, Versions: api.Versions(p.version), Show: results,
		Usable: func(ctx context.Context) ([]pulp.SigningService, error) { return signers.all(ctx, s) }, Lease: c.TaskLease,
		Jobs: jobs.All(jobs.Options{
			Store: s, Log: p.log, Host: c.Public().Host, Parallel: c.Signing.Parallel, Mirror: e.network, Blobs: e.blobs, Upstream: e.upstream,
			AllowShrink: c.Mirror.AllowShrink, SkipCorrupt: c.Mirror.SkipCorrupt, SyncTimeout: c.Mirror.SyncTimeout,
			Validator: ingest.SignatureValidator{Store: s, RefuseUnknown: c.Signatures.UnknownKeys == "refuse"},
			Signer:    signer, SignOnPush: e.signOnPush, Adopter: e.adopter, SigningUse: p.signingUse(),
		}),
	})
	e.dispatcher = tasks.NewDispatcher(s, e.queue, e.worker, p.log)
	signTasks := jobs.SignTasks{Store: s, Dispatch: e.dispatcher.Dispatch, Cancel: e.dispatcher.Cancel}
	e.signOnPush.SignElsewhere, e.signOnPush.SignLater = signTasks.Sign, signTasks.SignLater
	return e, nil
}

// signingUse returns the rule of who may use signing services.
func (p *Program) signingUse() pulp.SigningUse {
	return pulp.SigningUse{ByOwners: p.config.Signing.Use == config.UseRepositoryOwners, Assigned: p.config.Signing.AssignedServices}
}

// Where the bytes of a database's blobs lie.
const (
	inFiles    = "storage of its own"
	inUpstream = "an upstream registry"
)

// sameStorage refuses storage in which the blobs that the database knows are not: it would know images that nobody can pull.
func (p *Program) sameStorage(s *store.Store, inFront bool) error {
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
func (p *Program) openQueue() (queue, error) {
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

// network reaches remotes, at the addresses that are allowed (D20).
func (p *Program) network() (*mirror.Network, error) {
	allowed, err := p.config.Mirror.Prefixes()
	if err != nil {
		return nil, err
	}
	return mirror.New(mirror.Options{
		AllowPrivate: allowed, UserAgent: "countersign/" + p.version, Log: p.log,
		Pace:        registryclient.Pace{BytesPerSecond: p.config.Mirror.MinRate, Window: p.config.Mirror.MinRateWindow},
		BlobTimeout: p.config.Mirror.BlobTimeout,
	}), nil
}

func (p *Program) openStorage() (storage.Storage, error) {
	c := p.config
	if c.UpstreamURL == "" {
		return embedded.New(p.ctx, embedded.Options{Driver: c.Storage.Driver, Parameters: c.Storage.Parameters})
	}
	if file := c.Upstream.PasswordFile; file != "" {
		p.warnOfOpenSecret("upstream.password_file", file)
	}
	return upstream.New(upstream.Options{
		URL: c.UpstreamURL, Prefix: c.Upstream.Prefix, Username: c.Upstream.Username, Password: c.Upstream.Password.Reveal(), PasswordFile: c.Upstream.PasswordFile,
		Token: c.Upstream.Token.Reveal(), TokenHosts: c.Upstream.TokenHosts,
		CAFile: c.Upstream.CAFile, InsecureSkipVerify: c.Upstream.InsecureSkipVerify,
	})
}

// inlineLimit is how many bytes a blob may have to be kept in the database, durable with its own 201 (architecture 1).
const inlineLimit = 16 << 10
