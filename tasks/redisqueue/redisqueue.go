// Package redisqueue implements tasks.Queue on Redis, for installations with several processes. It is the only
// importer of go-redis.
//
// The ids are members of a sorted set. One script adds the ids of a push, another removes the id of a pop. A
// Pop that finds the set empty waits for a notification, which every push publishes. No command blocks inside
// Redis, so no id is delivered to a client that has disconnected. Cancels are published, too, and recorded in a
// key that expires. Each process has one subscription for both. If it breaks, every waiting Pop looks into the
// set again: it returns the error if Redis is unavailable, and otherwise waits for the next subscription.
package redisqueue

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/countersign/countersign/tasks"
)

const (
	answerTimeout = 2 * time.Second // limit for one answer of Redis, including the time to connect
	idleConns     = 4
	// how long a cancel is recorded, for watches that begin and subscriptions that are renewed after it
	cancelTTL = 30 * time.Second
)

// DefaultPrefix is the prefix of keys and channels (in braces) if Options do not set one.
const DefaultPrefix = "countersign"

// Options configure a queue.
type Options struct {
	URL    string // redis:// or rediss://[user:password@]host[:port][/database]
	Prefix string // separates installations on one Redis; empty: DefaultPrefix
	// for rediss://; nil: the system's root certificates. If ServerName is empty, the URL's host is used.
	TLS     *tls.Config
	Cluster bool         // the URL names one node of a Redis Cluster
	Log     *slog.Logger // receives the loss and the recovery of the connection; nil: no log
}

// Queue is a first-in, first-out queue of ids on Redis. It is safe for concurrent use.
type Queue struct {
	client redis.UniversalClient
	names  names
	secret string // the password, which is removed from errors
	log    *slog.Logger

	// arrived contains at most one token: one waiting Pop must look into the queue. The Pop that receives it
	// looks, and puts it back if ids remain or the look failed. A superfluous token costs one look.
	arrived chan struct{}

	stop    context.CancelFunc
	stopped chan struct{}

	mu      sync.Mutex
	sub     *subscription
	subErr  error // why no subscription is active; nil if one is
	watches map[string]*watch
}

var _ tasks.Queue = (*Queue)(nil)

// New returns a queue and begins to connect. It fails only for invalid options, not if Redis is unavailable.
// The queue works until Close is called; the end of ctx does not affect it.
func New(ctx context.Context, o Options) (*Queue, error) {
	if o.Prefix == "" {
		o.Prefix = DefaultPrefix
	}
	if strings.ContainsAny(o.Prefix, "{}") {
		return nil, errors.New("redis: the prefix must not contain braces")
	}
	opt, err := clientOptions(o)
	if err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	logging.Disable() // the library logs errors that it also returns
	return start(ctx, newClient(opt, o.Cluster), &Queue{
		names: newNames(o.Prefix, opt.DB), secret: opt.Password, log: o.Log,
	}), nil
}

// start completes a queue with a client and begins to subscribe.
func start(ctx context.Context, client redis.UniversalClient, q *Queue) *Queue {
	ctx, q.stop = context.WithCancel(context.WithoutCancel(ctx))
	q.client, q.stopped = client, make(chan struct{})
	q.arrived, q.sub, q.watches = make(chan struct{}, 1), newSubscription(), map[string]*watch{}
	go q.keepSubscribed(ctx)
	return q
}

// clientOptions parses the URL. Its errors do not contain any part of it, since any part of a malformed URL may
// be the password.
func clientOptions(o Options) (*redis.Options, error) {
	u, err := url.Parse(o.URL)
	if err != nil || u.Scheme != "redis" && u.Scheme != "rediss" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("redis: the URL must have the form redis://user:password@host:6379/0, or rediss:// for TLS")
	}
	opt, err := redis.ParseURL(o.URL)
	if err != nil {
		return nil, errors.New("redis: the path of the URL must be the number of a database, or empty")
	}
	switch {
	case o.Cluster && opt.DB != 0:
		return nil, errors.New("redis: a cluster only has database 0; remove the number from the URL")
	case opt.TLSConfig == nil && o.TLS != nil:
		return nil, errors.New("redis: TLS settings require a URL of the form rediss://host:6379/0")
	case o.TLS != nil:
		opt.TLSConfig = o.TLS.Clone()
		if opt.TLSConfig.ServerName == "" {
			opt.TLSConfig.ServerName = u.Hostname()
		}
	}
	opt.Protocol = 2
	opt.DisableIdentity = true
	opt.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	opt.ContextTimeoutEnabled = true
	opt.DialTimeout, opt.PoolTimeout = answerTimeout, answerTimeout
	opt.ReadTimeout, opt.WriteTimeout = answerTimeout, answerTimeout
	opt.DialerRetries = 1
	// After a restart of Redis all idle connections are dead, which TLS connections notice only when they are
	// used. So the pool keeps no more idle connections than an operation has attempts. A command that is
	// executed twice does no harm: at worst an id is lost, and a sweep pushes it again.
	opt.MaxIdleConns, opt.MaxRetries = idleConns, idleConns
	opt.MinRetryBackoff, opt.MaxRetryBackoff = time.Millisecond, 20*time.Millisecond
	return opt, nil
}

func newClient(opt *redis.Options, cluster bool) redis.UniversalClient {
	if !cluster {
		return redis.NewClient(opt)
	}
	return redis.NewClusterClient(&redis.ClusterOptions{
		Addrs: []string{opt.Addr}, Username: opt.Username, Password: opt.Password, TLSConfig: opt.TLSConfig,
		Protocol: opt.Protocol, DisableIdentity: opt.DisableIdentity, MaintNotificationsConfig: opt.MaintNotificationsConfig,
		ContextTimeoutEnabled: opt.ContextTimeoutEnabled, DialTimeout: opt.DialTimeout, ReadTimeout: opt.ReadTimeout,
		WriteTimeout: opt.WriteTimeout, PoolTimeout: opt.PoolTimeout, DialerRetries: opt.DialerRetries, MaxIdleConns: opt.MaxIdleConns,
		MinRetryBackoff: opt.MinRetryBackoff, MaxRetryBackoff: opt.MaxRetryBackoff, MaxRedirects: idleConns,
	})
}

// Close disconnects. Waiting calls return an error.
func (q *Queue) Close() error {
	q.stop()
	err := q.client.Close()
	<-q.stopped
	return err
}

// Ping reports whether the queue works: Redis answers, and the subscription is active.
func (q *Queue) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	if err := q.client.Ping(ctx).Err(); err != nil {
		return fmt.Errorf("redis: %w", q.redact(err))
	}
	return q.awaitActive(ctx, q.current())
}

// Time returns the time of Redis's clock.
func (q *Queue) Time(ctx context.Context) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	at, err := q.client.Time(ctx).Result()
	if err != nil {
		return time.Time{}, fmt.Errorf("redis: %w", q.redact(err))
	}
	return at, nil
}

// Push implements tasks.Queue.
func (q *Queue) Push(ctx context.Context, ids ...string) error {
	if len(ids) == 0 {
		return nil
	}
	if err := q.push(ctx, ids); err != nil {
		return fmt.Errorf("redis: push %s: %w", strings.Join(ids, ", "), err)
	}
	return nil
}

// Remove implements tasks.Queue.
func (q *Queue) Remove(ctx context.Context, id string) error {
	if err := q.remove(ctx, id); err != nil {
		return fmt.Errorf("redis: remove %s: %w", id, err)
	}
	return nil
}

// Pop implements tasks.Queue. If Redis becomes unavailable it returns an error, even while it waits:
// immediately if the connection breaks, after some seconds if Redis stops answering. A command that was sent
// before the end of wait or ctx may take two seconds longer.
func (q *Queue) Pop(ctx context.Context, wait time.Duration) (string, error) {
	waiting, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		s := q.current()
		active := s.isActive() // before the look: a push after it wakes this call
		if id, err := q.tryPop(ctx); id != "" || err != nil {
			return id, err
		}
		err := q.await(waiting, s, active)
		switch {
		case err == nil: // look again, even at the end of wait: this call may have received the token
		case ctx.Err() != nil:
			return "", ctx.Err()
		case waiting.Err() != nil:
			return "", nil
		default:
			return "", err
		}
	}
}

// tryPop pops without waiting.
func (q *Queue) tryPop(ctx context.Context) (string, error) {
	if err := ctx.Err(); err != nil {
		q.wakeOne()
		return "", err
	}
	id, behind, err := q.pop(context.WithoutCancel(ctx)) // not canceled with ctx: an answer that is not read is a lost id
	if behind > 0 || err != nil {
		q.wakeOne()
	}
	if err != nil {
		return "", fmt.Errorf("redis: pop: %w", err)
	}
	return id, nil
}

// await returns nil when another look is due. Otherwise it returns ctx's error, or the reason why there is no
// subscription.
func (q *Queue) await(ctx context.Context, s *subscription, active bool) error {
	if !active { // arrivals before the subscription was active were not notified
		return q.awaitActive(ctx, s)
	}
	select {
	case <-q.arrived:
		return nil
	case <-s.lost:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// wakeOne lets one waiting Pop of this process look into the queue.
func (q *Queue) wakeOne() {
	select {
	case q.arrived <- struct{}{}:
	default:
	}
}

// Cancel implements tasks.Queue.
func (q *Queue) Cancel(ctx context.Context, id string) error {
	if err := q.cancel(ctx, id); err != nil {
		return fmt.Errorf("redis: cancel %s: %w", id, err)
	}
	return nil
}

// redact removes the password from an error: a server may repeat the arguments of a command that it rejects.
func (q *Queue) redact(err error) error {
	if q.secret == "" || !strings.Contains(err.Error(), q.secret) {
		return err
	}
	return errors.New(strings.ReplaceAll(err.Error(), q.secret, "***"))
}
