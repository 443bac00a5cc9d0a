package redisqueue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// silence after which the subscription is checked with PING, and then time for the answer
	idleTimeout        = 2 * time.Second
	minPause, maxPause = 50 * time.Millisecond, time.Second
)

var errNotSubscribed = errors.New("no connection so far")

// subscription is one subscription of the process to arrivals and cancels, from the attempt to connect to its
// loss.
type subscription struct {
	active chan struct{} // closed when the server has confirmed it
	lost   chan struct{} // closed when it ends after that
}

func newSubscription() *subscription {
	return &subscription{active: make(chan struct{}), lost: make(chan struct{})}
}

func (s *subscription) isActive() bool {
	select {
	case <-s.active:
		return true
	default:
		return false
	}
}

// current returns the active subscription or, if there is none, the one that will be next.
func (q *Queue) current() *subscription {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.sub
}

// awaitActive waits until a subscription is active, for at most answerTimeout. The error is the reason why it is
// not.
func (q *Queue) awaitActive(ctx context.Context, s *subscription) error {
	timeout := time.NewTimer(answerTimeout)
	defer timeout.Stop()
	select {
	case <-s.active:
		return nil
	case <-timeout.C:
	case <-ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	err := q.subErr
	if err == nil {
		err = errNotSubscribed
	}
	return fmt.Errorf("redis: subscribe: %w", err)
}

// keepSubscribed subscribes again whenever a subscription ends, with growing pauses, until ctx ends.
func (q *Queue) keepSubscribed(ctx context.Context) {
	defer close(q.stopped)
	pause := minPause
	for {
		err := q.receive(ctx)
		if ctx.Err() != nil {
			err = redis.ErrClosed
		}
		if q.deactivate(err) {
			pause = minPause
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, maxPause)
	}
}

// receive subscribes and handles notifications until the subscription breaks. It returns the reason.
func (q *Queue) receive(ctx context.Context) error {
	sub := q.client.Subscribe(ctx)
	defer func() { _ = sub.Close() }()
	defer context.AfterFunc(ctx, func() { _ = sub.Close() })()
	unconfirmed, err := 2, subscribe(ctx, sub, q.names.arrivals, q.names.cancels)
	if err != nil {
		return err
	}
	pinged := false
	for {
		event, err := sub.ReceiveTimeout(ctx, idleTimeout)
		if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() && !pinged && unconfirmed == 0 {
			pinged, err = true, sub.Ping(ctx)
			if err == nil {
				continue
			}
		}
		if err != nil {
			return err
		}
		pinged = false
		switch event := event.(type) {
		case *redis.Message:
			q.handle(event)
		case *redis.Subscription:
			if unconfirmed--; unconfirmed == 0 {
				err = q.activate(ctx)
			}
		}
		if err != nil {
			return err
		}
	}
}

func subscribe(ctx context.Context, sub *redis.PubSub, channels ...string) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	return sub.Subscribe(ctx, channels...)
}

func (q *Queue) handle(m *redis.Message) {
	switch m.Channel {
	case q.names.arrivals:
		q.wakeOne()
	case q.names.cancels:
		q.notifyWatchers(m.Payload)
	}
}

// activate marks the subscription as active. Before that it notifies the watchers of tasks that were canceled
// while there was no subscription.
func (q *Queue) activate(ctx context.Context) error {
	if err := q.notifyRecorded(ctx, q.watched()); err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.subErr != nil {
		q.log.InfoContext(ctx, "connected to Redis again")
	}
	q.subErr = nil
	close(q.sub.active)
	return nil
}

// deactivate records why there is no subscription. It reports whether one was active.
func (q *Queue) deactivate(err error) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err = q.redact(err); q.subErr == nil && !errors.Is(err, redis.ErrClosed) {
		q.log.Warn("lost the connection to Redis; connecting again", slog.Any("err", err))
	}
	q.subErr = err
	wasActive := q.sub.isActive()
	if wasActive {
		close(q.sub.lost)
		q.sub = newSubscription()
	}
	return wasActive
}
