package proxy

import (
	"slices"
	"sync"
	"time"

	"github.com/countersign/countersign/storage"
)

// Limits of the idle writers.
const (
	maxIdleWriters  = 1000            // at most so many
	maxIdlePerOwner = 125             // and of one client; its oldest one makes room
	idleTimeout     = 5 * time.Minute // and not longer than this
)

// idleWriter is the open writer of an upload between two requests.
type idleWriter struct {
	upload storage.Upload
	id     string // of the upload
	owner  string // the client of the last request
	epoch  int64  // of the upload's row after the last request
	timer  *time.Timer
}

// writers keeps the writers of uploads open between requests, so that the next chunk need not open the upload and
// read its bytes again. A writer that is not here only costs a Resume. writers also gives each upload to one request
// of this process at a time; requests to other servers open writers of their own.
type writers struct {
	mu     sync.Mutex
	idle   map[string]*idleWriter
	owners map[string][]*idleWriter // the idle writers of each client, oldest first
	busy   map[string]bool
}

func newWriters() *writers {
	return &writers{idle: map[string]*idleWriter{}, owners: map[string][]*idleWriter{}, busy: map[string]bool{}}
}

// acquire gives an upload to a request. It returns false if another request of this process has it.
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

// take removes and returns the idle writer of an acquired upload. It returns nil, and closes the writer, if the
// writer is not at the position of the upload's row.
func (w *writers) take(id string, epoch, size int64) storage.Upload {
	w.mu.Lock()
	k := w.idle[id]
	w.forget(k)
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

// keep stores the writer of an acquired upload for the next request. If the client has too many idle writers it
// closes the client's oldest one. If there are too many in total it closes u.
func (w *writers) keep(id, owner string, epoch int64, u storage.Upload) {
	var closed storage.Upload
	w.mu.Lock()
	if of := w.owners[owner]; len(of) >= maxIdlePerOwner {
		of[0].timer.Stop()
		closed = of[0].upload
		w.forget(of[0])
	}
	if len(w.idle) < maxIdleWriters {
		k := &idleWriter{upload: u, id: id, owner: owner, epoch: epoch}
		k.timer = time.AfterFunc(idleTimeout, func() { w.drop(k) })
		w.idle[id] = k
		w.owners[owner] = append(w.owners[owner], k)
	} else {
		closed = u
	}
	w.mu.Unlock()
	if closed != nil {
		_ = closed.Close()
	}
}

// drop closes a writer after idleTimeout.
func (w *writers) drop(k *idleWriter) {
	w.mu.Lock()
	mine := w.idle[k.id] == k
	if mine {
		w.forget(k)
	}
	w.mu.Unlock()
	if mine {
		_ = k.upload.Close()
	}
}

// forget removes an idle writer, which may be nil, from the maps. The caller holds mu.
func (w *writers) forget(k *idleWriter) {
	if k == nil {
		return
	}
	delete(w.idle, k.id)
	of := slices.DeleteFunc(w.owners[k.owner], func(o *idleWriter) bool { return o == k })
	if w.owners[k.owner] = of; len(of) == 0 {
		delete(w.owners, k.owner)
	}
}
