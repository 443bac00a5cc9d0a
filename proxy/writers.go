package proxy

import (
	"sync"
	"time"

	"github.com/countersign/countersign/storage"
)

// How writers are kept between the requests of an upload.
const (
	writersKept = 1000            // at most so many
	writerIdle  = 5 * time.Minute // and not longer than this
)

// writer is an upload's writer as it was left after a request.
type writer struct {
	upload storage.Upload
	epoch  int64 // of the upload's row when it was left
	timer  *time.Timer
}

// writers keeps the open writers of uploads between requests, so that the next chunk need not open the upload again and read what is there. Each upload
// is in the hands of one request of this process at a time; requests of other processes have writers of their own. What is lost here costs a Resume, no more.
type writers struct {
	mu   sync.Mutex
	kept map[string]*writer
	busy map[string]bool
}

func newWriters() *writers { return &writers{kept: map[string]*writer{}, busy: map[string]bool{}} }

// acquire takes an upload for one request; false when another request of this process has it.
func (w *writers) acquire(id string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.busy[id] {
		return false
	}
	w.busy[id] = true
	return true
}

func (w *writers) release(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.busy, id)
}

// take returns the kept writer of an acquired upload if it stands where the upload's row says; nil otherwise.
func (w *writers) take(id string, epoch, size int64) storage.Upload {
	w.mu.Lock()
	k := w.kept[id]
	delete(w.kept, id)
	w.mu.Unlock()
	if k == nil {
		return nil
	}
	k.timer.Stop()
	if k.epoch != epoch || k.upload.Size() != size {
		_ = k.upload.Close()
		return nil
	}
	return k.upload
}

// keep leaves the writer of an acquired upload for the next request.
func (w *writers) keep(id string, epoch int64, u storage.Upload) {
	w.mu.Lock()
	full := len(w.kept) >= writersKept
	if !full {
		w.kept[id] = &writer{u, epoch, time.AfterFunc(writerIdle, func() { w.drop(id, u) })}
	}
	w.mu.Unlock()
	if full {
		_ = u.Close()
	}
}

// drop closes a writer that nobody came back for.
func (w *writers) drop(id string, u storage.Upload) {
	w.mu.Lock()
	k := w.kept[id]
	mine := k != nil && k.upload == u
	if mine {
		delete(w.kept, id)
	}
	w.mu.Unlock()
	if mine {
		_ = u.Close()
	}
}
