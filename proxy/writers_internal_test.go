package proxy

import (
	"fmt"
	"testing"

	"github.com/countersign/countersign/storage"
)

// openedWriter is a writer that records that it was closed.
type openedWriter struct {
	storage.Upload
	closed bool
}

func (o *openedWriter) Size() int64  { return 0 }
func (o *openedWriter) Close() error { o.closed = true; return nil }

// TestIdleWritersAreShared checks that a client with many uploads does not evict idle writers of other clients, but
// its own oldest one.
func TestIdleWritersAreShared(t *testing.T) {
	t.Parallel()
	w := newWriters()
	modest := &openedWriter{}
	w.keep("modest", "modest", 0, modest)
	var greedy []*openedWriter
	for i := range 2 * maxIdleWriters {
		greedy = append(greedy, &openedWriter{})
		w.keep(fmt.Sprint("greedy", i), "greedy", 0, greedy[i])
	}
	late := &openedWriter{}
	w.keep("late", "late", 0, late)
	for i, g := range greedy {
		if g.closed != (i < len(greedy)-maxIdlePerOwner) {
			t.Fatalf("writer %d of %d is closed: %t", i, len(greedy), g.closed)
		}
	}
	if w.take("modest", 0, 0) != modest || w.take("late", 0, 0) != late || w.take("greedy0", 0, 0) != nil {
		t.Error("a writer is not where it was left")
	}
	for i := range greedy {
		if k := w.take(fmt.Sprint("greedy", i), 0, 0); k != nil {
			_ = k.Close()
		}
	}
	if len(w.idle) != 0 || len(w.owners) != 0 {
		t.Errorf("left behind: %d writers of %d clients", len(w.idle), len(w.owners))
	}
}
