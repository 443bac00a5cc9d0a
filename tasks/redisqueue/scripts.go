package redisqueue

import (
	"context"
	_ "embed" // for the scripts
	"fmt"

	"github.com/redis/go-redis/v9"
)

//go:embed lua/push.lua
var pushText string

//go:embed lua/pop.lua
var popText string

//go:embed lua/cancel.lua
var cancelText string

//go:embed lua/canceled.lua
var canceledText string

var (
	pushScript     = redis.NewScript(pushText)
	popScript      = redis.NewScript(popText)
	cancelScript   = redis.NewScript(cancelText)
	canceledScript = redis.NewScript(canceledText)
)

// names are the keys and channels of one installation. They share a hash tag, so that a cluster stores them on
// one node.
type names struct {
	ready    string // sorted set of ids, scored by their places
	canceled string // prefix of the keys that record canceled tasks
	// Channels are shared by all databases of a Redis server, so their names contain the database.
	arrivals string
	cancels  string
}

func newNames(prefix string, db int) names {
	tag := "{" + prefix + "}:"
	return names{
		ready:    tag + "ready",
		canceled: tag + "canceled:",
		arrivals: fmt.Sprintf("%sdb%d:arrivals", tag, db),
		cancels:  fmt.Sprintf("%sdb%d:cancels", tag, db),
	}
}

// push runs lua/push.lua.
func (q *Queue) push(ctx context.Context, ids []string) error {
	args := []any{q.names.arrivals}
	for _, id := range ids {
		args = append(args, id)
	}
	return q.run(ctx, pushScript, []string{q.names.ready}, args...).Err()
}

// remove deletes an id from the queue.
func (q *Queue) remove(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	if err := q.client.ZRem(ctx, q.names.ready, id).Err(); err != nil {
		return q.redact(err)
	}
	return nil
}

// pop runs lua/pop.lua. It returns the first id, or "" if there is none, and the number of remaining ids.
func (q *Queue) pop(ctx context.Context) (id string, behind int64, err error) {
	reply, err := q.run(ctx, popScript, []string{q.names.ready}).Slice()
	if err != nil || len(reply) == 0 {
		return "", 0, err
	}
	if len(reply) == 2 {
		id, _ = reply[0].(string)
		behind, _ = reply[1].(int64)
	}
	return id, behind, nil
}

// cancel runs lua/cancel.lua.
func (q *Queue) cancel(ctx context.Context, id string) error {
	keys := []string{q.names.canceled + id}
	return q.run(ctx, cancelScript, keys, id, cancelTTL.Milliseconds(), q.names.cancels).Err()
}

// canceled runs lua/canceled.lua. It returns those of the ids that were canceled within cancelTTL.
func (q *Queue) canceled(ctx context.Context, ids []string) ([]string, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	keys := make([]string, len(ids))
	for i, id := range ids {
		keys[i] = q.names.canceled + id
	}
	marks, err := q.run(ctx, canceledScript, keys).Int64Slice()
	if err != nil {
		return nil, err
	}
	var canceled []string
	for i, mark := range marks[:min(len(marks), len(ids))] {
		if mark != 0 {
			canceled = append(canceled, ids[i])
		}
	}
	return canceled, nil
}

// run runs a script within answerTimeout. If the server does not have the script, because it was restarted, it is
// sent again.
func (q *Queue) run(ctx context.Context, s *redis.Script, keys []string, args ...any) *redis.Cmd {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	cmd := s.Run(ctx, q.client, keys, args...)
	if err := cmd.Err(); err != nil {
		cmd.SetErr(q.redact(err))
	}
	return cmd
}
