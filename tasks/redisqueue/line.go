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
	idleTime           = 2 * time.Second // after so long a silence, and again without an answer, the line is checked, and lost
	minPause, maxPause = 50 * time.Millisecond, time.Second
)

var errNotYet = errors.New("not connected yet")

// line is the connection that hears arrivals and cancels, from the wish for one to its loss.
type line struct {
	up   chan struct{} // closed when it stands
	lost chan struct{} // closed when it stands no more
}

func newLine() *line { return &line{up: make(chan struct{}), lost: make(chan struct{})} }

func (l *line) stands() bool {
	select {
	case <-l.up:
		return true
	default:
		return false
	}
}

// current is the line that stands, or the one that will.
func (q *Queue) current() *line {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.line
}

// heard waits until the line stands, for a bounded time.
func (q *Queue) heard(ctx context.Context, l *line) error {
	patience := time.NewTimer(answerTime)
	defer patience.Stop()
	select {
	case <-l.up:
		return nil
	case <-patience.C:
	case <-ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	err := q.lineErr
	if err == nil {
		err = errNotYet
	}
	return fmt.Errorf("redis: subscribe: %w", err)
}

// listen keeps a line until ctx ends.
func (q *Queue) listen(ctx context.Context) {
	defer close(q.stopped)
	pause := minPause
	for {
		err := q.follow(ctx)
		if ctx.Err() != nil {
			err = redis.ErrClosed
		}
		if q.lose(err) {
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

// follow opens a line and does what it says until it breaks.
func (q *Queue) follow(ctx context.Context) error {
	sub := q.client.Subscribe(ctx)
	defer func() { _ = sub.Close() }()
	defer context.AfterFunc(ctx, func() { _ = sub.Close() })()
	unconfirmed, err := 2, subscribe(ctx, sub, q.names.arrivals, q.names.cancels)
	if err != nil {
		return err
	}
	asked := false
	for {
		event, err := sub.ReceiveTimeout(ctx, idleTime)
		if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() && !asked && unconfirmed == 0 {
			asked, err = true, sub.Ping(ctx)
			if err == nil {
				continue
			}
		}
		if err != nil {
			return err
		}
		asked = false
		switch event := event.(type) {
		case *redis.Message:
			q.tell(event)
		case *redis.Subscription:
			if unconfirmed--; unconfirmed == 0 {
				err = q.stand(ctx)
			}
		}
		if err != nil {
			return err
		}
	}
}

func subscribe(ctx context.Context, sub *redis.PubSub, channels ...string) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	return sub.Subscribe(ctx, channels...)
}

func (q *Queue) tell(m *redis.Message) {
	switch m.Channel {
	case q.names.arrivals:
		q.arrive()
	case q.names.cancels:
		q.tellWatchers(m.Payload)
	}
}

// stand announces the line, after telling of the cancels that came while there was none.
func (q *Queue) stand(ctx context.Context) error {
	if err := q.recall(ctx, q.watched()); err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.lineErr != nil {
		q.log.InfoContext(ctx, "redis is back")
	}
	q.lineErr = nil
	close(q.line.up)
	return nil
}

// lose notes why there is no line. It says whether there was one.
func (q *Queue) lose(err error) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err = q.hide(err); q.lineErr == nil && !errors.Is(err, redis.ErrClosed) {
		q.log.Warn("redis is away", slog.Any("err", err))
	}
	q.lineErr = err
	stood := q.line.stands()
	if stood {
		close(q.line.lost)
		q.line = newLine()
	}
	return stood
}
