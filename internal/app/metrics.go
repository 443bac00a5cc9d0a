package app

import (
	"context"
	"fmt"
	"net/http"
	"syscall"
	"time"

	"github.com/countersign/countersign/api"
	"github.com/countersign/countersign/config"
	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/ingest"
	"github.com/countersign/countersign/internal/metrics"
	"github.com/countersign/countersign/internal/servertls"
	"github.com/countersign/countersign/internal/signservice"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/telemetry"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/storage/observed"
	"github.com/countersign/countersign/tasks"
	"github.com/countersign/countersign/tasks/jobs"
)

// Kinds of other registries in metrics.
const (
	peerUpstream = "upstream"
	peerRemote   = "remote"
)

// Sources of signatures from outside in metrics.
const (
	sourceClient = "client"
	sourceRemote = "remote"
)

// maxWorkers is the largest number of workers that the metrics count.
const maxWorkers = 1000

// newMetrics returns the metrics of a process.
func newMetrics(o Options) *metrics.Metrics {
	return metrics.New(metrics.Options{Version: o.Version, Log: o.Log, Values: metrics.Values{
		Tasks: tasks.Names(), TaskResults: words(tasks.Results()), SignatureResults: words(signservice.Results()),
		ValidationSources: []string{sourceClient, sourceRemote}, Validations: words(ingest.Validations()),
		Verifications: words(api.Verifications()), LoginMethods: words(auth.Methods()), LoginResults: words(auth.LoginResults()),
		StorageOperations: observed.Operations(o.Config.UpstreamURL != ""), StorageResults: words(observed.Results()),
		Swept: jobs.SweptKinds(), Peers: []string{peerUpstream, peerRemote},
	}})
}

// words returns values of a type of words as strings.
func words[T ~string](all []T) []string {
	texts := make([]string, len(all))
	for i, word := range all {
		texts[i] = string(word)
	}
	return texts
}

// taskObserver reports the attempts at tasks to the metrics.
type taskObserver struct{ *metrics.Metrics }

// TaskEnded implements tasks.Observer.
func (o taskObserver) TaskEnded(name string, result tasks.Result, took time.Duration) {
	o.Metrics.TaskEnded(name, string(result), took)
}

// observeSignature reports the use of a key to the metrics.
func (a *App) observeSignature(service string, result signservice.Result, took time.Duration) {
	a.metrics.Signed(service, string(result), result == signservice.Made, took)
}

// observeValidation returns a function that reports the validation of signatures of a source to the metrics.
func (a *App) observeValidation(source string) func(ingest.Validation) {
	return func(v ingest.Validation) { a.metrics.SignatureValidated(source, string(v)) }
}

// observeStorage reports an operation of the storage to the metrics.
func (a *App) observeStorage(operation string, result observed.Result, took time.Duration) {
	a.metrics.StorageOperation(operation, string(result), took)
}

// observePeer returns a function that wraps the transport to a kind of other registries.
func (a *App) observePeer(kind string) func(http.RoundTripper) http.RoundTripper {
	to := a.metrics.Peer(kind)
	return func(next http.RoundTripper) http.RoundTripper { return telemetry.ObserveTransport(next, to) }
}

// watch adds the states of a process to its metrics. secure is nil without TLS.
func (a *App) watch(s *store.Store, e *engine, secure *servertls.Reloader) {
	if a.config.Workers > 0 {
		a.metrics.SetSlots(e.worker.Slots())
	}
	from := metrics.Sources{
		Stored: func(ctx context.Context) (metrics.Stored, error) { return stored(ctx, s) },
		Dependencies: map[string]func(context.Context) error{
			"database": s.DB.Ping,
			"storage":  e.storage.Ping,
		},
		Pool: func() metrics.Pool {
			p := s.DB.Stats()
			return metrics.Pool{InUse: p.InUse, Idle: p.Idle, Max: p.Max, Waits: p.Waits, Waited: p.Waited, Queued: p.Queued}
		},
		Audit: func() (int, int64) {
			rows := e.audit.Stats()
			return rows.Waiting, rows.Lost
		},
		Space: func(context.Context) (metrics.Space, error) { return space(a.config) },
	}
	if e.queue.Ping != nil {
		from.Dependencies["redis"] = e.queue.Ping
	}
	if secure != nil {
		from.Certificate = secure.Expires
	}
	a.metrics.Watch(from)
}

// stored returns the state of the database for the metrics.
func stored(ctx context.Context, s *store.Store) (state metrics.Stored, err error) {
	now := s.DB.Now()
	counts, err := s.Tasks.CountTasks(ctx)
	if err != nil {
		return state, err
	}
	for _, c := range counts {
		n := metrics.TaskCount{Name: c.Name, State: string(c.State), Tasks: c.Tasks, Ready: c.Ready, Oldest: age(now, c.OldestCreated)}
		if c.Ready > 0 {
			n.OldestReady = age(now, c.OldestReady)
		}
		state.Tasks = append(state.Tasks, n)
	}
	if state.Workers, state.Services, err = services(ctx, s); err != nil {
		return state, err
	}
	if state.Uploads, err = s.Uploads.Count(ctx); err != nil {
		return state, err
	}
	tags, since, err := s.Upstream.OutboxState(ctx)
	if state.Outbox = tags; !since.IsZero() {
		state.OutboxOldest = age(now, since)
	}
	return state, err
}

// services returns the number of workers that are online, and the signing services.
func services(ctx context.Context, s *store.Store) (online int, all []metrics.Service, err error) {
	workers, err := s.Tasks.OnlineWorkers(ctx, maxWorkers)
	if err != nil {
		return 0, nil, err
	}
	usable := map[string]int{} // number of workers by service
	for _, w := range workers {
		for _, name := range w.Services {
			usable[name]++
		}
	}
	stored, err := s.Signatures.SigningServices(ctx)
	if err != nil {
		return 0, nil, err
	}
	for _, v := range stored {
		service := metrics.Service{Name: v.Name, Workers: usable[v.Name], Expires: time.Unix(0, 0)} // a key that cannot be parsed cannot be used
		if key, err := signing.ParsePublicKey(v.PublicKey); err == nil {
			service.Expires = key.Expires()
		}
		all = append(all, service)
	}
	return len(workers), all, nil
}

// age returns the time since a moment, which clocks of other hosts may have set later than now.
func age(now, since time.Time) time.Duration { return max(0, now.Sub(since)) }

// space returns the size of the data directory's file system.
func space(c config.Config) (metrics.Space, error) {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(c.Data, &fs); err != nil {
		return metrics.Space{}, fmt.Errorf("data directory: %w", err)
	}
	block := uint64(fs.Bsize)
	return metrics.Space{Size: fs.Blocks * block, Free: fs.Bavail * block}, nil
}
