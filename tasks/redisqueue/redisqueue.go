// Package redisqueue is a task queue on Redis, for several processes. It alone imports go-redis. It knows no tasks, only their ids.
//
// The ids are a sorted set, which one script a push puts them into and one script a pop takes them out of. Whoever finds it empty waits for
// arrivals, which a push publishes; nobody blocks inside Redis, so no id is ever given to one who has left. Cancels are published too, and
// leave a mark for a moment. One connection of the process hears both. When it breaks, those who wait look for themselves: they
// get the error if Redis is away, and otherwise wait on with the next connection.
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
	answerTime = 2 * time.Second // how long Redis may take for one answer, with the time to connect
	idleConns  = 4
	markTime   = 30 * time.Second // how long a cancel is seen by those who begin to watch, or connect again, after it
)

// DefaultPrefix is what keys begin with, in braces, unless an operator says otherwise.
const DefaultPrefix = "countersign"

// Options say where the queue is.
type Options struct {
	URL     string       // redis:// or rediss://[user:password@]host[:port][/database]
	Prefix  string       // sets installations on one Redis apart; "": DefaultPrefix
	TLS     *tls.Config  // for rediss://; nil: the system's roots. An empty ServerName is the URL's host.
	Cluster bool         // the URL names one node of a Redis Cluster
	Log     *slog.Logger // is told when Redis is lost and found; nil: nobody is
}

// Queue is a first-in, first-out queue of ids on Redis. It is safe for concurrent use.
type Queue struct {
	client redis.UniversalClient
	names  names
	secret string // the password, which errors must not say
	log    *slog.Logger

	// arrived holds one token at most: somebody here must look whether there are ids. Whoever takes it looks, and hands it on when ids stay
	// behind or the look failed. A token too many costs one look.
	arrived chan struct{}

	stop    context.CancelFunc
	stopped chan struct{}

	mu      sync.Mutex
	line    *line
	lineErr error // why there is no line
	watches map[string]*watch
}

var _ tasks.Queue = (*Queue)(nil)

// New returns a queue and begins to connect. It fails only if the options are wrong, not if Redis is away. The queue lives until Close, however ctx ends.
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
	logging.Disable() // the library prints what it also returns
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	q := &Queue{
		client: newClient(opt, o.Cluster), names: newNames(o.Prefix, opt.DB), secret: opt.Password, log: o.Log,
		arrived: make(chan struct{}, 1), line: newLine(), watches: map[string]*watch{},
		stop: stop, stopped: make(chan struct{}),
	}
	go q.listen(ctx)
	return q, nil
}

// clientOptions reads the URL. Its errors do not repeat it, as any part of a malformed URL may be the password.
func clientOptions(o Options) (*redis.Options, error) {
	u, err := url.Parse(o.URL)
	if err != nil || u.Scheme != "redis" && u.Scheme != "rediss" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("redis: want a URL of the form redis://user:password@host:6379/0, or rediss:// for TLS")
	}
	opt, err := redis.ParseURL(o.URL)
	if err != nil {
		return nil, errors.New("redis: the URL's path wants to be the number of a database, or nothing")
	}
	switch {
	case o.Cluster && opt.DB != 0:
		return nil, errors.New("redis: a cluster has no database but 0")
	case opt.TLSConfig == nil && o.TLS != nil:
		return nil, errors.New("redis: TLS wants a URL of the form rediss://host:6379/0")
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
	opt.DialTimeout, opt.ReadTimeout, opt.WriteTimeout, opt.PoolTimeout = answerTime, answerTime, answerTime, answerTime
	opt.DialerRetries = 1
	// After a restart of Redis the idle connections are dead, and those with TLS show it only when used. So there are no more than one
	// operation may try. What is done twice by this is harmless: at worst an id is gone, which a sweep pushes again.
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

// Close ends the queue: whoever waits gets an error.
func (q *Queue) Close() error {
	q.stop()
	err := q.client.Close()
	<-q.stopped
	return err
}

// Ping says whether the queue works: Redis answers, and arrivals and cancels are heard.
func (q *Queue) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	if err := q.client.Ping(ctx).Err(); err != nil {
		return fmt.Errorf("redis: %w", q.hide(err))
	}
	return q.heard(ctx, q.current())
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

// Pop implements tasks.Queue. If Redis goes away it returns an error, also while it waits: at once when the connection breaks, some seconds
// later when Redis only falls silent. What Redis is asked for, even at the end of the wait or of ctx, may take two seconds.
func (q *Queue) Pop(ctx context.Context, wait time.Duration) (string, error) {
	waiting, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		l := q.current()
		heard := l.stands() // before the look: what is pushed after it wakes us
		if id, err := q.look(ctx); id != "" || err != nil {
			return id, err
		}
		err := q.await(waiting, l, heard)
		switch {
		case err == nil: // look, however late it is: a token may have been taken
		case ctx.Err() != nil:
			return "", ctx.Err()
		case waiting.Err() != nil:
			return "", nil
		default:
			return "", err
		}
	}
}

// look pops without waiting.
func (q *Queue) look(ctx context.Context) (string, error) {
	if err := ctx.Err(); err != nil {
		q.arrive()
		return "", err
	}
	id, behind, err := q.pop(context.WithoutCancel(ctx)) // an answer that nobody waits for would be an id lost
	if behind > 0 || err != nil {
		q.arrive()
	}
	if err != nil {
		return "", fmt.Errorf("redis: pop: %w", err)
	}
	return id, nil
}

// await returns nil when another look is due, or ctx's error, or why no arrival would be heard.
func (q *Queue) await(ctx context.Context, l *line, heard bool) error {
	if !heard { // what arrived until the line stood, only a look can tell
		return q.heard(ctx, l)
	}
	select {
	case <-q.arrived:
		return nil
	case <-l.lost:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// arrive has one of those who wait here look.
func (q *Queue) arrive() {
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

// hide takes the password out of an error: a server may repeat a command that it does not know.
func (q *Queue) hide(err error) error {
	if q.secret == "" || !strings.Contains(err.Error(), q.secret) {
		return err
	}
	return errors.New(strings.ReplaceAll(err.Error(), q.secret, "***"))
}
