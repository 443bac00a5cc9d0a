package redisqueue_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/go-redis/redismock/v9"
	"github.com/redis/go-redis/v9"

	"github.com/countersign/countersign/internal/eventually"
	"github.com/countersign/countersign/tasks/redisqueue"
)

// The keys and channels of a queue with the default prefix.
const (
	readyKey       = "{countersign}:ready"
	canceledKey    = "{countersign}:canceled:a"
	arrivalChannel = "{countersign}:db0:arrivals"
	cancelChannel  = "{countersign}:db0:cancels"
)

// replyError is an error reply of Redis, as go-redis returns it.
type replyError string

func (e replyError) Error() string { return string(e) }

// RedisError implements redis.Error.
func (replyError) RedisError() {}

// noSubscription refuses the connections of a mocked client: redismock answers commands only, and subscriptions need a
// connection.
type noSubscription struct{}

var errRefused = errors.New("connection refused by the test")

func (noSubscription) DialHook(redis.DialHook) redis.DialHook {
	return func(context.Context, string, string) (net.Conn, error) { return nil, errRefused }
}
func (noSubscription) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (noSubscription) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// mocked returns a queue whose commands a mock answers. It never has a subscription.
func mocked(t *testing.T) (*redisqueue.Queue, redismock.ClientMock) {
	t.Helper()
	client, mock := redismock.NewClientMock()
	client.AddHook(noSubscription{})
	q := redisqueue.NewWithClient(t.Context(), client, secret)
	t.Cleanup(func() {
		_ = q.Close() // the mock's client reports its commands
		if err := mock.ExpectationsWereMet(); err != nil {
			t.Error(err)
		}
	})
	return q, mock
}

// operation is one method of the queue and the command that it sends.
type operation struct {
	name        string
	call        func(context.Context, *redisqueue.Queue) error
	expect      func(redismock.ClientMock) (fail func(error), succeed func())
	errorPrefix string
}

func cmdExpectation(e *redismock.ExpectedCmd, reply any) (func(error), func()) {
	return e.SetErr, func() { e.SetVal(reply) }
}

func operations() []operation {
	return []operation{
		{
			name:        "Push",
			call:        func(ctx context.Context, q *redisqueue.Queue) error { return q.Push(ctx, "a", "b") },
			errorPrefix: "redis: push a, b: ",
			expect: func(m redismock.ClientMock) (func(error), func()) {
				return cmdExpectation(m.ExpectEvalSha(redisqueue.PushScript.Hash(), []string{readyKey}, arrivalChannel, "a", "b"), int64(2))
			},
		},
		{
			name:        "Remove",
			call:        func(ctx context.Context, q *redisqueue.Queue) error { return q.Remove(ctx, "a") },
			errorPrefix: "redis: remove a: ",
			expect: func(m redismock.ClientMock) (func(error), func()) {
				e := m.ExpectZRem(readyKey, "a")
				return e.SetErr, func() { e.SetVal(1) }
			},
		},
		{
			name: "Pop",
			call: func(ctx context.Context, q *redisqueue.Queue) error {
				id, err := q.Pop(ctx, time.Hour)
				if err == nil && id != "a" {
					err = fmt.Errorf("popped %q, want a", id)
				}
				return err
			},
			errorPrefix: "redis: pop: ",
			expect: func(m redismock.ClientMock) (func(error), func()) {
				return cmdExpectation(m.ExpectEvalSha(redisqueue.PopScript.Hash(), []string{readyKey}), []any{"a", int64(0)})
			},
		},
		{
			name:        "Cancel",
			call:        func(ctx context.Context, q *redisqueue.Queue) error { return q.Cancel(ctx, "a") },
			errorPrefix: "redis: cancel a: ",
			expect: func(m redismock.ClientMock) (func(error), func()) {
				e := m.ExpectEvalSha(redisqueue.CancelScript.Hash(), []string{canceledKey}, "a", int64(30_000), cancelChannel)
				return cmdExpectation(e, int64(1))
			},
		},
	}
}

// TestErrorReplies answers every operation with replies that a test cannot easily provoke on a server. The operation must
// return the reply with its own name and the id, and succeed when Redis has recovered.
func TestErrorReplies(t *testing.T) {
	t.Parallel()
	replies := map[string]replyError{
		"a replica":           "READONLY You can't write against a read only replica.",
		"a starting server":   "LOADING Redis is loading the dataset in memory",
		"another node's slot": "MOVED 3999 127.0.0.1:6381",
		"a broken cluster":    "CLUSTERDOWN The cluster is down",
		"a lost master":       "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
		"no memory":           "OOM command not allowed when used memory > 'maxmemory'.",
		"a blocking script":   "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
		"a full disk":         "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
		"no login":            "NOAUTH Authentication required.",
		"no permission":       "NOPERM this user has no permissions to run the 'evalsha' command",
		"a key of other type": "WRONGTYPE Operation against a key holding the wrong kind of value",
	}
	for name, reply := range replies {
		for _, o := range operations() {
			t.Run(o.name+" with "+name, func(t *testing.T) {
				t.Parallel()
				q, mock := mocked(t)
				fail, _ := o.expect(mock)
				fail(reply)
				err := o.call(t.Context(), q)
				if want := o.errorPrefix + string(reply); err == nil || err.Error() != want {
					t.Errorf("error = %v, want %q", err, want)
				}
				if _, ok := errors.AsType[redis.Error](err); !ok {
					t.Errorf("the error %v hides the reply's type", err)
				}
				_, succeed := o.expect(mock)
				succeed()
				if err := o.call(t.Context(), q); err != nil {
					t.Errorf("after the failure: %v, want success", err)
				}
			})
		}
	}
}

// TestErrorRepliesWithThePassword expects that no operation returns an error with the password.
func TestErrorRepliesWithThePassword(t *testing.T) {
	t.Parallel()
	for _, o := range operations() {
		t.Run(o.name, func(t *testing.T) {
			t.Parallel()
			q, mock := mocked(t)
			fail, _ := o.expect(mock)
			fail(replyError("ERR wrong arguments: '" + secret + "'"))
			if err := o.call(t.Context(), q); err == nil || err.Error() != o.errorPrefix+"ERR wrong arguments: '***'" {
				t.Errorf("error = %v, want the reply without the password", err)
			}
		})
	}
}

// TestWatchWithFailingLookup expects that Canceled fails if the record of cancels cannot be read, and that it leaves no
// watch behind.
func TestWatchWithFailingLookup(t *testing.T) {
	t.Parallel()
	q, mock := mocked(t)
	mock.ExpectEvalSha(redisqueue.CanceledScript.Hash(), []string{canceledKey}).SetErr(replyError("LOADING"))
	if _, _, err := q.Canceled(t.Context(), "a"); err == nil || err.Error() != "watch a: LOADING" {
		t.Errorf("Canceled = %v, want the error of the lookup", err)
	}
	if n := q.Watches(); n != 0 {
		t.Errorf("%d watches remain after the failure, want none", n)
	}
}

// TestWithoutSubscription expects that calls which depend on notifications fail with the reason for which there is no
// subscription, although Redis answers their commands.
func TestWithoutSubscription(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		expect func(redismock.ClientMock)
		call   func(context.Context, *redisqueue.Queue) error
	}{
		"Ping": {
			expect: func(m redismock.ClientMock) { m.ExpectPing().SetVal("PONG") },
			call:   func(ctx context.Context, q *redisqueue.Queue) error { return q.Ping(ctx) },
		},
		"Pop of an empty queue": {
			expect: func(m redismock.ClientMock) {
				m.ExpectEvalSha(redisqueue.PopScript.Hash(), []string{readyKey}).SetVal([]any{})
			},
			call: func(ctx context.Context, q *redisqueue.Queue) error { _, err := q.Pop(ctx, time.Hour); return err },
		},
		"Canceled": {
			expect: func(m redismock.ClientMock) {
				m.ExpectEvalSha(redisqueue.CanceledScript.Hash(), []string{canceledKey}).SetVal([]any{int64(0)})
			},
			call: func(ctx context.Context, q *redisqueue.Queue) error { _, _, err := q.Canceled(ctx, "a"); return err },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			q, mock := mocked(t)
			test.expect(mock)
			err := test.call(t.Context(), q)
			if !errors.Is(err, errRefused) || !strings.Contains(err.Error(), "redis: subscribe: ") {
				t.Errorf("error = %v, want the reason for the missing subscription", err)
			}
			if n := q.Watches(); n != 0 {
				t.Errorf("%d watches remain after the failure, want none", n)
			}
		})
	}
}

// TestMissingScript expects that a script is sent when a server does not have it, and that an error of its execution is
// returned.
func TestMissingScript(t *testing.T) {
	t.Parallel()
	q, mock := mocked(t)
	noScript := replyError("NOSCRIPT No matching script. Please use EVAL.")
	script := redisqueue.PopScriptText
	mock.ExpectEvalSha(redisqueue.PopScript.Hash(), []string{readyKey}).SetErr(noScript)
	mock.ExpectEval(script, []string{readyKey}).SetVal([]any{"a", int64(3)})
	if id, err := q.Pop(t.Context(), 0); id != "a" || err != nil {
		t.Errorf("Pop = %q, %v, want a", id, err)
	}
	failed := replyError("ERR Error running script: OOM command not allowed")
	mock.ExpectEvalSha(redisqueue.PopScript.Hash(), []string{readyKey}).SetErr(noScript)
	mock.ExpectEval(script, []string{readyKey}).SetErr(failed)
	if id, err := q.Pop(t.Context(), 0); id != "" || !errors.Is(err, failed) {
		t.Errorf("Pop = %q, %v, want the error of the script", id, err)
	}
}

// TestUnexpectedReplies expects that replies of another form than the scripts' are treated as empty or as errors.
func TestUnexpectedReplies(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		reply   any
		wantErr bool
	}{
		"no array":            {reply: "a", wantErr: true},
		"one element":         {reply: []any{"a"}},
		"elements of no type": {reply: []any{nil, nil}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			q, mock := mocked(t)
			mock.ExpectEvalSha(redisqueue.PopScript.Hash(), []string{readyKey}).SetVal(test.reply)
			ctx, cancel := context.WithCancel(t.Context())
			id, err := q.Pop(ctx, 0)
			cancel()
			if id != "" || (err != nil) != test.wantErr {
				t.Errorf("Pop = %q, %v, want an error: %t", id, err, test.wantErr)
			}
		})
	}
}

// TestSubscriptionWaitsForRecordedCancels expects that a subscription is not used before the recorded cancels of watched
// tasks could be read: a cancel could have come while there was no subscription.
func TestSubscriptionWaitsForRecordedCancels(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	ctx, admin := t.Context(), s.admin(t)
	if err := admin.Do(ctx, "acl", "setuser", "queue", "on", ">x", "~*", "&*", "+@all").Err(); err != nil {
		t.Fatal(err)
	}
	q := open(t, redisqueue.Options{URL: "redis://queue:x@" + s.addr()})
	wantPing(t, q)
	canceled := watch(t, q, "a")
	do := func(args ...any) {
		t.Helper()
		if err := admin.Do(ctx, args...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	do("acl", "setuser", "queue", "-exists") // the script canceled.lua fails
	do("set", canceledKey, "", "px", time.Minute.Milliseconds())
	do("client", "kill", "type", "pubsub")
	eventually.True(t, long, func() bool {
		err := q.Ping(ctx)
		return err != nil && strings.Contains(err.Error(), "redis: subscribe: ")
	}, "Ping fails because the recorded cancels cannot be read")
	select {
	case <-canceled:
		t.Error("the watcher was notified although the record cannot be read")
	default:
	}
	do("acl", "setuser", "queue", "+exists")
	wantPing(t, q)
	wantCanceled(t, canceled)
}
