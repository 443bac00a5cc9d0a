package app

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/countersign/countersign/api"
	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/adopt"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/ingest"
	"github.com/countersign/countersign/internal/mirror"
	"github.com/countersign/countersign/internal/oidc"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/registryclient"
	"github.com/countersign/countersign/internal/signers"
	"github.com/countersign/countersign/internal/signonpush"
	"github.com/countersign/countersign/internal/signservice"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/signatures"
	"github.com/countersign/countersign/internal/tracing"
	"github.com/countersign/countersign/internal/webhook"
	"github.com/countersign/countersign/storage"
	"github.com/countersign/countersign/storage/observed"
	"github.com/countersign/countersign/tasks"
	"github.com/countersign/countersign/tasks/jobs"
)

// backends are the systems that a process uses besides the database.
type backends struct {
	storage  storage.Storage
	upstream storage.Manifests // nil without an upstream
	blobs    ingest.Blobs
	network  *mirror.Network
	queue    Queue
}

// engine contains the parts that servers and workers have in common.
type engine struct {
	backends
	process    string // <pid>@<host>
	signers    *signers.Signers
	signOnPush *signonpush.Runner
	adopter    *adopt.Adopter // nil without an upstream
	users      *auth.Auth
	people     *identity.People // nil without sources of people
	access     *access.Decider
	idTokens   *oidc.Verifier
	worker     *tasks.Worker
	dispatcher *tasks.Dispatcher
	audit      *audit.Log
	tracing    *tracing.Tracing    // nil without a receiver of traces
	webhooks   *webhook.Dispatcher // nil if other processes deliver events
}

// buildEngine builds the common parts on an open store. The caller closes the queue and the audit log.
func (a *App) buildEngine(ctx context.Context, s *store.Store) (*engine, error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("host name: %w", err)
	}
	verifier, err := a.idTokens()
	if err != nil {
		return nil, err
	}
	results, err := api.Results(ctx, s)
	if err != nil {
		return nil, err
	}
	services, err := s.Signatures.SigningServices(ctx)
	if err != nil {
		return nil, err
	}
	b, err := a.openBackends(ctx, s)
	if err != nil {
		return nil, err
	}
	entries, err := a.openAudit(s, a.config.Audit.File)
	if err != nil {
		return nil, err
	}
	users, people, err := a.users(ctx, s, entries)
	if err != nil {
		return nil, err
	}
	c := a.config
	process := fmt.Sprintf("%d@%s", os.Getpid(), host)
	traces, err := a.openTracing(ctx, process)
	if err != nil {
		return nil, err
	}
	keys := a.Signers()
	keys.WarnOfScripts(ctx, services)
	signer := &signservice.Signer{
		Store: s, Audit: entries, SignerFor: keys.Signer, Parallel: c.Signing.Parallel,
		Usable: func(v pulp.SigningService) bool { return keys.CheckUsable(v) == nil }, Observe: a.observeSignature,
	}
	runner := a.signOnPush(s, b.queue, signer)
	adopter := a.adopter(s, b, runner, entries)
	decider := s.Accounts.NewDecider(&oidc.Rights{Verifier: verifier, Roles: s.Accounts})
	worker := tasks.NewWorker(tasks.WorkerOptions{
		Store: s, Queue: b.queue, Log: a.log, Audit: entries, Slots: c.Workers, Name: process, Versions: api.Versions(a.version), Show: results,
		Usable: usableServices(s, keys), Lease: c.TaskLease, Observer: taskObserver{a.metrics}, Jobs: a.jobs(s, b, signer, runner, adopter, decider),
		Confirm: users.Confirm,
	})
	sending, err := a.webhooks(s, users, decider, process)
	if err != nil {
		return nil, err
	}
	return &engine{
		webhooks: sending,
		backends: b, process: process, signers: keys, signOnPush: runner, adopter: adopter, worker: worker, users: users, people: people,
		access: decider, idTokens: verifier, dispatcher: tasks.NewDispatcher(s, b.queue, worker, a.log), audit: entries, tracing: traces,
	}, nil
}

// webhooks returns the dispatcher of events, or nil if other processes deliver them.
func (a *App) webhooks(s *store.Store, users *auth.Auth, decider *access.Decider, process string) (*webhook.Dispatcher, error) {
	c := a.config.Webhooks
	allowed, err := c.Prefixes()
	if err != nil || c.Parallel == 0 {
		return nil, err
	}
	return webhook.New(webhook.Options{
		Store: s, Access: webhook.Access{Decider: decider, Confirm: users.Confirm}, Log: a.log, Name: process,
		Sender:   webhook.NewSender(allowed, c.Timeout, a.config.Public().String(), "countersign/"+a.version),
		Parallel: c.Parallel, Timeout: c.Timeout, Backlog: c.Backlog, RetryFor: c.RetryFor,
	}), nil
}

// openBackends opens the storage and the queue and prepares the store for the kind of storage. A storage that does
// not answer causes a warning only.
func (a *App) openBackends(ctx context.Context, s *store.Store) (b backends, err error) {
	own, err := a.OpenStorage(ctx)
	if err != nil {
		return backends{}, err
	}
	b.storage = observed.New(own, a.observeStorage)
	if err := b.storage.Ping(ctx); err != nil {
		a.log.WarnContext(ctx, "the storage is not available; pushes and pulls fail until it is", slog.Any("err", err))
	}
	b.upstream, _ = b.storage.(storage.Manifests)
	if err := checkStorage(ctx, s, b.upstream != nil); err != nil {
		return backends{}, err
	}
	if b.upstream != nil {
		s.Content.EnableOutbox()
		b.blobs = ingest.Blobs{Storage: b.storage, Foreign: true}
	} else {
		b.blobs = ingest.Blobs{Storage: b.storage, Inline: inlineLimit}
	}
	if b.network, err = a.network(); err != nil {
		return backends{}, err
	}
	b.queue, err = a.OpenQueue(ctx)
	return b, err
}

// setPushPolicy sets the policy of signing on push.
func (a *App) setPushPolicy(s *store.Store) {
	c := a.config
	s.Signatures.SetPushPolicy(signatures.PushPolicy{
		Host: c.Public().Host, Lists: c.SignLists, Service: c.Signing.ServiceOnPush, Use: a.signingUse(),
	})
}

// signOnPush sets the policy of signing on push and returns the runner of changes that it concerns.
func (a *App) signOnPush(s *store.Store, queue Queue, signer *signservice.Signer) *signonpush.Runner {
	c := a.config
	a.setPushPolicy(s)
	queued := tasks.NewQueueDispatcher(s, queue, a.log)
	signTasks := jobs.SignTasks{Store: s, Dispatch: queued.Dispatch, Cancel: queued.Cancel}
	return &signonpush.Runner{
		Store: s, Log: a.log, Signer: signer, SignElsewhere: signTasks.Sign, SignLater: signTasks.SignLater,
		Timeout: c.Signing.OnPushTimeout, AcceptUnsigned: c.Signing.OnPushFailure == "accept",
	}
}

// adopter returns the adopter of content on the upstream, or nil without an upstream.
func (a *App) adopter(s *store.Store, b backends, runner *signonpush.Runner, entries *audit.Log) *adopt.Adopter {
	if b.upstream == nil {
		return nil
	}
	c := a.config
	return &adopt.Adopter{
		Store: s, Upstream: b.upstream, Blobs: b.blobs, SignOnPush: runner, Log: a.log, Audit: entries, Type: pulp.RepositoryType(c.PushRepositoryType),
		Public: c.Upstream.AdoptPublic, Follow: c.Upstream.Follow, Pin: c.Upstream.KeepManifests,
	}
}

// usableServices returns a function that returns the signing services that this process can use.
func usableServices(s *store.Store, keys *signers.Signers) func(context.Context) ([]pulp.SigningService, error) {
	return func(ctx context.Context) ([]pulp.SigningService, error) {
		services, err := s.Signatures.SigningServices(ctx)
		if err != nil {
			return nil, err
		}
		return keys.Usable(ctx, services), nil
	}
}

// jobs returns the functions that run tasks. adopter is nil without an upstream.
func (a *App) jobs(
	s *store.Store, b backends, signer *signservice.Signer, runner *signonpush.Runner, adopter *adopt.Adopter,
	decider *access.Decider,
) map[string]tasks.Job {
	c := a.config
	return jobs.All(jobs.Options{
		Store: s, Log: a.log, Access: decider, Host: c.Public().Host, Parallel: c.Signing.Parallel, Mirror: b.network, Blobs: b.blobs, Upstream: b.upstream,
		AllowShrink: c.Mirror.AllowShrink, SkipCorrupt: c.Mirror.SkipCorrupt, SyncTimeout: c.Mirror.SyncTimeout,
		Validator: ingest.SignatureValidator{Store: s, RefuseUnknown: c.Signatures.UnknownKeys == "refuse", Observe: a.observeValidation(sourceRemote)},
		Signer:    signer, SignOnPush: runner, Adopter: adopter, SigningUse: a.signingUse(), Swept: a.metrics.Swept,
	})
}

// network returns the client for remotes, restricted to the permitted addresses (compatibility.md#private-addresses).
func (a *App) network() (*mirror.Network, error) {
	c := a.config.Mirror
	allowed, err := c.Prefixes()
	if err != nil {
		return nil, err
	}
	return mirror.New(mirror.Options{
		AllowPrivate: allowed, UserAgent: "countersign/" + a.version, Log: a.log,
		Pace: registryclient.Pace{BytesPerSecond: c.MinRate, Window: c.MinRateWindow}, BlobTimeout: c.BlobTimeout,
		WrapTransport: a.observePeer(peerRemote),
	}), nil
}
