package app

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/countersign/countersign/api"
	"github.com/countersign/countersign/internal/adopt"
	"github.com/countersign/countersign/internal/ingest"
	"github.com/countersign/countersign/internal/mirror"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/registryclient"
	"github.com/countersign/countersign/internal/signers"
	"github.com/countersign/countersign/internal/signonpush"
	"github.com/countersign/countersign/internal/signservice"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/signatures"
	"github.com/countersign/countersign/storage"
	"github.com/countersign/countersign/tasks"
	"github.com/countersign/countersign/tasks/jobs"
)

// engine contains the parts that servers and workers have in common.
type engine struct {
	process    string // <pid>@<host>
	storage    storage.Storage
	upstream   storage.Manifests // nil without an upstream
	blobs      ingest.Blobs
	network    *mirror.Network
	queue      Queue
	worker     *tasks.Worker
	dispatcher *tasks.Dispatcher
	signers    *signers.Signers
	signOnPush *signonpush.Runner
	adopter    *adopt.Adopter // nil without an upstream
}

// buildEngine builds the common parts on an open store.
func (a *App) buildEngine(ctx context.Context, s *store.Store) (*engine, error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("host name: %w", err)
	}
	e := &engine{process: fmt.Sprintf("%d@%s", os.Getpid(), host)}
	if e.storage, err = a.OpenStorage(ctx); err != nil {
		return nil, err
	}
	if err := e.storage.Ping(ctx); err != nil {
		a.log.WarnContext(ctx, "the storage is not available; pushes and pulls fail until it is", slog.Any("err", err))
	}
	e.upstream, _ = e.storage.(storage.Manifests)
	if err := checkStorage(ctx, s, e.upstream != nil); err != nil {
		return nil, err
	}
	if e.upstream != nil {
		s.Content.EnableOutbox()
		e.blobs = ingest.Blobs{Storage: e.storage, Foreign: true}
	} else {
		e.blobs = ingest.Blobs{Storage: e.storage, Inline: inlineLimit}
	}
	if e.network, err = a.network(); err != nil {
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
	e.signers = a.Signers()
	e.signers.WarnOfScripts(ctx, services)
	if e.queue, err = a.OpenQueue(ctx); err != nil {
		return nil, err
	}
	c := a.config
	s.Signatures.SetPushPolicy(signatures.PushPolicy{Host: c.Public().Host, Lists: c.SignLists, Service: c.Signing.ServiceOnPush, Use: a.signingUse()})
	signer := &signservice.Signer{
		Store: s, Log: a.log, SignerFor: e.signers.Signer, Parallel: c.Signing.Parallel,
		Usable: func(v pulp.SigningService) bool { return e.signers.CheckUsable(v) == nil },
	}
	queued := tasks.NewQueueDispatcher(s, e.queue, a.log)
	signTasks := jobs.SignTasks{Store: s, Dispatch: queued.Dispatch, Cancel: queued.Cancel}
	e.signOnPush = &signonpush.Runner{
		Store: s, Log: a.log, Signer: signer, SignElsewhere: signTasks.Sign, SignLater: signTasks.SignLater,
		Timeout: c.Signing.OnPushTimeout, AcceptUnsigned: c.Signing.OnPushFailure == "accept",
	}
	if e.upstream != nil {
		e.adopter = &adopt.Adopter{
			Store: s, Upstream: e.upstream, Blobs: e.blobs, SignOnPush: e.signOnPush, Log: a.log, Type: pulp.RepositoryType(c.PushRepositoryType),
			Public: c.Upstream.AdoptPublic, Follow: c.Upstream.Follow, Pin: c.Upstream.KeepManifests,
		}
	}
	e.worker = tasks.NewWorker(tasks.WorkerOptions{
		Store: s, Queue: e.queue, Log: a.log, Slots: c.Workers, Name: e.process, Versions: api.Versions(a.version), Show: results, Lease: c.TaskLease,
		Usable: func(ctx context.Context) ([]pulp.SigningService, error) {
			services, err := s.Signatures.SigningServices(ctx)
			if err != nil {
				return nil, err
			}
			return e.signers.Usable(ctx, services), nil
		},
		Jobs: a.jobs(s, e, signer),
	})
	e.dispatcher = tasks.NewDispatcher(s, e.queue, e.worker, a.log)
	return e, nil
}

// jobs returns the functions that run tasks. e is complete except its worker and dispatcher.
func (a *App) jobs(s *store.Store, e *engine, signer *signservice.Signer) map[string]tasks.Job {
	c := a.config
	return jobs.All(jobs.Options{
		Store: s, Log: a.log, Host: c.Public().Host, Parallel: c.Signing.Parallel, Mirror: e.network, Blobs: e.blobs, Upstream: e.upstream,
		AllowShrink: c.Mirror.AllowShrink, SkipCorrupt: c.Mirror.SkipCorrupt, SyncTimeout: c.Mirror.SyncTimeout,
		Validator: ingest.SignatureValidator{Store: s, RefuseUnknown: c.Signatures.UnknownKeys == "refuse"},
		Signer:    signer, SignOnPush: e.signOnPush, Adopter: e.adopter, SigningUse: a.signingUse(),
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
	}), nil
}
