// Package queuetest is a test suite that every tasks.Queue must pass.
package queuetest

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/countersign/countersign/tasks"
)

// Run checks that a Queue implements the contract of tasks.Queue. open returns a new, empty queue and is called
// once for each case.
func Run(t *testing.T, open func(t *testing.T) tasks.Queue) {
	t.Helper()
	cases := map[string]func(t *testing.T, q tasks.Queue){
		"ids are popped in the order of pushes":        inOrder,
		"an id in the queue is not added again":        onceEach,
		"an id that is pushed again keeps its place":   keepsPlace,
		"a popped id can be pushed again":              again,
		"Pop of an empty queue returns after the wait": empty,
		"a push wakes a waiting Pop":                   wakes,
		"a push is delivered to one waiting Pop":       wakesOne,
		"concurrent Pops receive each id once":         each,
		"pushes, removals and pops agree with a model": model,
		"Pop returns if its context has ended":         endsWithContext,
		"Pop returns when its context ends":            endsMidway,
		"a cancel notifies all watchers of the task":   cancels,
		"a cancel notifies no watcher of another task": cancelsOther,
		"ending a watch does not end another":          unwatches,
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
	if err := q.Push(t.Context(), ids...); err != nil {
		t.Fatalf("Push(%v) = %v", ids, err)
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

func keepsPlace(t *testing.T, q tasks.Queue) {
	push(t, q, "a", "b", "a")
	wantPop(t, q, long, "a")
	wantPop(t, q, long, "b")
	wantPop(t, q, 0, "")
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

// each pushes and pops concurrently.
func each(t *testing.T, q tasks.Queue) {
	const poppers, pushers, ids = 8, 4, 2000
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var popping, pushing sync.WaitGroup
	popped := make(chan string, ids)
	for range poppers {
		popping.Go(func() {
			for {
				id, err := q.Pop(ctx, long)
				if id == "" {
					if !errors.Is(err, context.Canceled) {
						t.Errorf("Pop = nothing, %v", err)
					}
					return
				}
				popped <- id
			}
		})
	}
	for p := range pushers {
		pushing.Go(func() {
			for i := p; i < ids; i += pushers {
				if err := q.Push(ctx, strconv.Itoa(i)); err != nil {
					t.Errorf("Push = %v", err)
				}
			}
		})
	}
	seen := map[string]bool{}
	for len(seen) < ids {
		select {
		case id := <-popped:
			if seen[id] {
				t.Fatalf("%s was popped twice", id)
			}
			seen[id] = true
		case <-time.After(long):
			t.Fatalf("%d of %d ids were popped", len(seen), ids)
		}
	}
	pushing.Wait()
	wantPop(t, q, 0, "")
	cancel()
	popping.Wait()
}

// model compares random pushes, removals and pops with a slice.
func model(t *testing.T, q tasks.Queue) {
	rapid.Check(t, func(rt *rapid.T) {
		var want []string
		pop := func() {
			var first string
			if len(want) > 0 {
				first, want = want[0], want[1:]
			}
			if got, err := q.Pop(t.Context(), 0); err != nil || got != first {
				rt.Fatalf("Pop = %q, %v, want %q", got, err, first)
			}
		}
		id := rapid.SampledFrom([]string{"a", "b", "c", "d", "e"})
		for range rapid.IntRange(0, 20).Draw(rt, "steps") {
			switch rapid.SampledFrom([]string{"push", "remove", "pop"}).Draw(rt, "step") {
			case "push":
				ids := rapid.SliceOfN(id, 0, 4).Draw(rt, "pushed")
				if err := q.Push(t.Context(), ids...); err != nil {
					rt.Fatalf("Push(%v) = %v", ids, err)
				}
				for _, id := range ids {
					if !slices.Contains(want, id) {
						want = append(want, id)
					}
				}
			case "remove":
				gone := id.Draw(rt, "removed")
				if err := q.Remove(t.Context(), gone); err != nil {
					rt.Fatalf("Remove(%s) = %v", gone, err)
				}
				want = slices.DeleteFunc(want, func(id string) bool { return id == gone })
			case "pop":
				pop()
			}
		}
		for len(want) > 0 {
			pop()
		}
		pop()
	})
}

func endsMidway(t *testing.T, q tasks.Queue) {
	ctx, cancel := context.WithTimeout(t.Context(), short)
	defer cancel()
	before := time.Now()
	if id, err := q.Pop(ctx, long); id != "" || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Pop = %q, %v, want the context's error", id, err)
	}
	if took := time.Since(before); took > long/3 {
		t.Errorf("Pop took %v, want %v", took, short)
	}
	push(t, q, "a") // must not be delivered to the Pop that returned
	wantPop(t, q, long, "a")
}

func endsWithContext(t *testing.T, q tasks.Queue) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if id, err := q.Pop(ctx, long); id != "" || !errors.Is(err, context.Canceled) {
		t.Errorf("Pop = %q, %v, want the context's error", id, err)
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
				t.Error("a watcher was not notified")
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
		t.Error("the watcher of a was notified of b's cancel")
	case <-time.After(short):
	}
}

func unwatches(t *testing.T, q tasks.Queue) {
	_, stop, err := q.Canceled(t.Context(), "a")
	if err != nil {
		t.Fatalf("Canceled = %v", err)
	}
	canceled, stopOther, err := q.Canceled(t.Context(), "a")
	if err != nil {
		t.Fatalf("Canceled = %v", err)
	}
	defer stopOther()
	stop()
	stop() // a second time changes nothing
	if err := q.Cancel(t.Context(), "a"); err != nil {
		t.Fatalf("Cancel = %v", err)
	}
	select {
	case <-canceled:
	case <-time.After(long):
		t.Error("the remaining watcher was not notified")
	}
}
