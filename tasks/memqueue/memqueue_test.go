package memqueue_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/countersign/countersign/tasks"
	"github.com/countersign/countersign/tasks/memqueue"
	"github.com/countersign/countersign/tasks/queuetest"
)

func TestQueue(t *testing.T) {
	t.Parallel()
	queuetest.Run(t, func(*testing.T) tasks.Queue { return &memqueue.Queue{} })
}

func TestPopWaitsItsTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var q memqueue.Queue
		before := time.Now()
		if id, err := q.Pop(t.Context(), time.Hour); id != "" || err != nil {
			t.Errorf("Pop = %q, %v, want nothing", id, err)
		}
		if got := time.Since(before); got != time.Hour {
			t.Errorf("Pop waited %v, want 1h", got)
		}
	})
}
