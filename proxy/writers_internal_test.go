package proxy

import (
	"fmt"
	"testing"

	"github.com/countersign/countersign/storage"
)

// openWriter is a writer that notes when it is closed.
type openWriter struct {
	storage.Upload
	closed bool
}

func (o *openWriter) Size() int64  { return 0 }
func (o *openWriter) Close() error { o.closed = true; return nil }

// A client with many uploads takes none of the kept writers of others: its own oldest one makes room.
func TestKeptWritersAreShared(t *testing.T) {
	t.Parallel()
	w := newWriters()
	modest := &openWriter{}
	w.keep("modest", "modest", 0, modest)
	var greedy []*openWriter
	for i := range 2 * maxIdleWriters {
		greedy = append(greedy, &openWriter{})
		w.keep(fmt.Sprint("greedy", i), "greedy", 0, greedy[i])
	}
	late := &openWriter{}
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
