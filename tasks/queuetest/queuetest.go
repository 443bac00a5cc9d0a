// Package queuetest is the suite that every tasks.Queue passes.
package queuetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/countersign/countersign/tasks"
)

// Run holds a Queue against what tasks.Queue promises. open returns a fresh, empty queue; it may be called many times.
func Run(t *testing.T, open func(t *testing.T) tasks.Queue) {
	t.Helper()
	cases := map[string]func(t *testing.T, q tasks.Queue){
		"ids come out in the order in which they went in": inOrder,
		"an id that is in the queue is not put in again":  onceEach,
		"a popped id may come again":                      again,
		"an empty queue gives nothing after the wait":     empty,
		"a push wakes one who waits":                      wakes,
		"one push wakes only one of many":                 wakesOne,
		"waiting ends with the context":                   endsWithContext,
		"a cancel reaches everyone who watches the task":  cancels,
		"a cancel of another task reaches nobody":         cancelsOther,
	}
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

func push(t *testing.T, q tasks.Queue, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if err := q.Push(t.Context(), id); err != nil {
			t.Fatalf("Push(%s) = %v", id, err)
		}
	}
}

func wantPop(t *testing.T, q tasks.Queue, wait time.Duration, want string) {
	t.Helper()
	if got, err := q.Pop(t.Context(), wait); err != nil || got != want {
		t.Errorf("Pop = %q, %v, want %q", got, err, want)
	}
}

const short, long = 20 * time.Millisecond, 30 * time.Second

func inOrder(t *testing.T, q tasks.Queue) {
	push(t, q, "a", "b", "c")
	wantPop(t, q, long, "a")
	wantPop(t, q, long, "b")
	wantPop(t, q, long, "c")
}

func onceEach(t *testing.T, q tasks.Queue) {
	push(t, q, "a", "a")
	wantPop(t, q, long, "a")
	wantPop(t, q, short, "")
}

func again(t *testing.T, q tasks.Queue) {
	push(t, q, "a")
	wantPop(t, q, long, "a")
	push(t, q, "a")
	wantPop(t, q, long, "a")
}

func empty(t *testing.T, q tasks.Queue) { wantPop(t, q, short, "") }

func wakes(t *testing.T, q tasks.Queue) {
	got := make(chan string, 1)
	go func() {
		id, _ := q.Pop(t.Context(), long)
		got <- id
	}()
	push(t, q, "a")
	if id := <-got; id != "a" {
		t.Errorf("the waiting Pop = %q, want a", id)
	}
}

func wakesOne(t *testing.T, q tasks.Queue) {
	const waiters = 4
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan string, waiters)
	for range waiters {
		go func() {
			id, _ := q.Pop(ctx, long)
			got <- id
		}()
	}
	push(t, q, "a")
	if id := <-got; id != "a" {
		t.Errorf("the first Pop = %q, want a", id)
	}
	cancel()
	for range waiters - 1 {
		if id := <-got; id != "" {
			t.Errorf("another Pop = %q, want nothing", id)
		}
	}
}

func endsWithContext(t *testing.T, q tasks.Queue) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if id, err := q.Pop(ctx, long); id != "" || !errors.Is(err, context.Canceled) {
		t.Errorf("Pop = %q, %v, want the context's end", id, err)
	}
}

func cancels(t *testing.T, q tasks.Queue) {
	for range 2 {
		canceled, stop, err := q.Canceled(t.Context(), "a")
		if err != nil {
			t.Fatalf("Canceled = %v", err)
		}
		defer stop()
		defer func() {
			select {
			case <-canceled:
			case <-time.After(long):
				t.Error("a watcher was not told")
			}
		}()
	}
	for range 2 { // a second cancel changes nothing
		if err := q.Cancel(t.Context(), "a"); err != nil {
			t.Fatalf("Cancel = %v", err)
		}
	}
}

func cancelsOther(t *testing.T, q tasks.Queue) {
	canceled, stop, err := q.Canceled(t.Context(), "a")
	if err != nil {
		t.Fatalf("Canceled = %v", err)
	}
	defer stop()
	if err := q.Cancel(t.Context(), "b"); err != nil {
		t.Fatalf("Cancel = %v", err)
	}
	select {
	case <-canceled:
		t.Error("the watcher of a was told of b's cancel")
	case <-time.After(short):
	}
}
