package redisqueue

import (
	"context"
	"log/slog"

	"github.com/redis/go-redis/v9"
)

// Scripts of the queue, for tests that expect the commands of a mock.
var (
	PushScript     = pushScript
	PopScript      = popScript
	CancelScript   = cancelScript
	CanceledScript = canceledScript
)

// PopScriptText is the text of PopScript.
var PopScriptText = popText

// Watches returns the number of watched tasks.
func (q *Queue) Watches() int { return len(q.watched()) }

// NewWithClient returns a queue with the default prefix that uses a client of the test.
func NewWithClient(ctx context.Context, client redis.UniversalClient, secret string) *Queue {
	return start(ctx, client, &Queue{
		names: newNames(DefaultPrefix, 0), secret: secret, log: slog.New(slog.DiscardHandler),
	})
}
