package webhook

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/countersign/countersign/internal/events"
	"github.com/countersign/countersign/internal/retry"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/webhooks"
)

// Intervals and limits of deliveries.
const (
	checkEvery  = 250 * time.Millisecond // between checks for due streams
	errorPause  = 5 * time.Second        // after an error of the database
	trimEvery   = 10 * time.Second
	perReceiver = 4 // concurrent requests to one receiver
	pieces      = 20
	turn        = 30 * time.Second // of a stream; then others are served first
	margin      = 15 * time.Second // of a lease beyond the timeout of a request
	recording   = 10 * time.Second // for recording a result while the process stops
)

// backoff are the waits after failures of a stream.
var backoff = retry.Policy{First: 2 * time.Second, Max: 5 * time.Minute}

// Options configure a Dispatcher. All are required.
type Options struct {
	Store  *store.Store
	Access Access
	Sender *Sender
	Log    *slog.Logger
	Name   string // of this process
	// Parallel is the number of concurrent requests.
	Parallel int
	Timeout  time.Duration // of a request
	Backlog  int64         // number of events that wait for one webhook; the oldest others are dropped
	RetryFor time.Duration // the age of events that are given up
}

// Dispatcher delivers events. Several processes may run one each. Make one with New.
type Dispatcher struct {
	Options
	lease time.Duration

	mu    sync.Mutex
	count map[string]int  // of the streams of a webhook that this process delivers
	down  map[string]bool // webhooks whose last attempt failed; one stream at a time tries
	total int
	free  chan struct{} // has a value when a stream has ended
}

// New returns a Dispatcher.
func New(o Options) *Dispatcher {
	return &Dispatcher{
		Options: o, lease: o.Timeout + margin, count: map[string]int{}, down: map[string]bool{}, free: make(chan struct{}, 1),
	}
}

// Run delivers events until ctx ends. Then it waits for the requests that are under way.
func (d *Dispatcher) Run(ctx context.Context) {
	var streams sync.WaitGroup
	defer streams.Wait()
	if !d.Store.DB.IsPostgres() { // claims of a process that was killed: the database belongs to this one
		if err := d.Store.Webhooks.ReleaseAll(ctx); err != nil && ctx.Err() == nil {
			d.Log.WarnContext(ctx, "cannot release the deliveries of an earlier process; they wait for the end of its lease", slog.Any("err", err))
		}
	}
	streams.Go(func() { d.trim(ctx) })
	for {
		wait := checkEvery
		if err := d.start(ctx, &streams); err != nil && ctx.Err() == nil {
			d.Log.WarnContext(ctx, "cannot read the events for webhooks; trying again", slog.Duration("after", errorPause), slog.Any("err", err))
			wait = errorPause
		}
		select {
		case <-ctx.Done():
			return
		case <-d.free:
		case <-time.After(wait):
		}
	}
}

// start begins to deliver the streams that are due, one of each webhook per query, while there is room.
func (d *Dispatcher) start(ctx context.Context, streams *sync.WaitGroup) error {
	for ctx.Err() == nil {
		busy, room := d.busy()
		if room == 0 {
			return nil
		}
		due, err := d.Store.Webhooks.Due(ctx, busy)
		if err != nil || len(due) == 0 {
			return err
		}
		for _, k := range due[:min(len(due), room)] {
			c, err := d.Store.Webhooks.Claim(ctx, k, d.Name, d.lease)
			if err != nil {
				return err
			}
			if c == nil { // another process was faster
				continue
			}
			d.enter(k.WebhookID)
			streams.Go(func() {
				defer d.leave(k.WebhookID)
				d.deliver(ctx, c)
			})
		}
	}
	return nil
}

// busy returns the webhooks to which no further stream may be delivered now, and the number of further streams of others.
func (d *Dispatcher) busy() (busy []string, room int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, n := range d.count {
		if n >= perReceiver || d.down[id] {
			busy = append(busy, id)
		}
	}
	return busy, d.Parallel - d.total
}

func (d *Dispatcher) enter(webhook string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.count[webhook]++
	d.total++
}

func (d *Dispatcher) leave(webhook string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.total--
	if d.count[webhook]--; d.count[webhook] == 0 {
		delete(d.count, webhook)
	}
	select {
	case d.free <- struct{}{}:
	default:
	}
}

// setDown notes whether the last attempt at a webhook failed.
func (d *Dispatcher) setDown(webhook string, down bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if down {
		d.down[webhook] = true
	} else {
		delete(d.down, webhook)
	}
}

// deliver delivers the events of a claimed stream until it is empty, an attempt fails, or its turn has ended.
func (d *Dispatcher) deliver(ctx context.Context, c *webhooks.Claim) {
	err := (&delivery{Dispatcher: d, claim: c, until: time.Now().Add(d.lease), end: time.Now().Add(turn)}).run(ctx)
	if err == nil || errors.Is(err, webhooks.ErrFenced) {
		return
	}
	after := time.Duration(0)
	if ctx.Err() == nil {
		d.Log.WarnContext(ctx, "cannot deliver events to a webhook; trying again", slog.String("webhook", c.WebhookID), slog.Any("err", err))
		after = errorPause
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recording)
	defer cancel()
	if err := d.Store.Webhooks.Release(ctx, c, after); err != nil && !errors.Is(err, webhooks.ErrFenced) {
		d.Log.WarnContext(ctx, "cannot release the events of a webhook; they wait for the end of the lease", slog.String("webhook", c.WebhookID), slog.Any("err", err))
	}
}

// trim drops excess and old deliveries at intervals until ctx ends.
func (d *Dispatcher) trim(ctx context.Context) {
	tick := time.NewTicker(trimEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		dropped, err := d.Store.Webhooks.Trim(ctx, webhooks.Bounds{Backlog: d.Backlog, Oldest: time.Now().Add(-d.RetryFor)})
		for id, n := range dropped {
			d.Log.WarnContext(ctx, "events of a webhook are lost: its receiver has been failing for too long, or is too slow",
				slog.String("webhook", id), slog.Int64("events", n))
		}
		if err != nil && ctx.Err() == nil {
			d.Log.WarnContext(ctx, "cannot drop old events of webhooks; trying again later", slog.Any("err", err))
		}
	}
}

// lostEvent returns the event that reports lost events of a stream.
func lostEvent(l webhooks.Lost, path, subject string, data events.LostData) (events.Event, error) {
	data.Lost, data.First, data.Last = l.Number, l.First, l.Last
	e, err := events.New(events.Lost, path, subject, data)
	e.ID, e.Sequence, e.Time = l.ID, l.Seq, l.Last
	return e, err
}
