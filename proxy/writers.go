package proxy

import (
	"slices"
	"sync"
	"time"

	"github.com/countersign/countersign/storage"
)

// How writers are kept between the requests of an upload.
const (
	writersKept    = 1000            // at most so many
	writersOfOwner = 125             // and of one client; its oldest one makes room
	writerIdle     = 5 * time.Minute // and not longer than this
)

// writer is an upload's writer as it was left after a request.
type writer struct {
	upload storage.Upload
	id     string // of the upload
	owner  string // the client that left it
	epoch  int64  // of the upload's row when it was left
	timer  *time.Timer
}

// writers keeps the open writers of uploads between requests, so that the next chunk need not open the upload again and read what is there. Each upload
// is in the hands of one request of this process at a time; requests of other processes have writers of their own. What is lost here costs a Resume, no more.
type writers struct {
	mu     sync.Mutex
	kept   map[string]*writer
	owners map[string][]*writer // the kept ones of each client, oldest first
	busy   map[string]bool
}

func newWriters() *writers {
	return &writers{kept: map[string]*writer{}, owners: map[string][]*writer{}, busy: map[string]bool{}}
}

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

// keep leaves the writer of an acquired upload for the next request of a client. A client with too many has its oldest one closed; it takes no places of others.
func (w *writers) keep(id, owner string, epoch int64, u storage.Upload) {
	var closed storage.Upload
	w.mu.Lock()
	if of := w.owners[owner]; len(of) >= writersOfOwner {
		of[0].timer.Stop()
		closed = of[0].upload
		w.forget(of[0])
	}
	if len(w.kept) < writersKept {
		k := &writer{upload: u, id: id, owner: owner, epoch: epoch}
		k.timer = time.AfterFunc(writerIdle, func() { w.drop(k) })
		w.kept[id] = k
		w.owners[owner] = append(w.owners[owner], k)
	} else {
		closed = u
	}
	w.mu.Unlock()
	if closed != nil {
		_ = closed.Close()
	}
}

// drop closes a writer that nobody came back for.
func (w *writers) drop(k *writer) {
	w.mu.Lock()
	mine := w.kept[k.id] == k
	if mine {
		w.forget(k)
	}
	w.mu.Unlock()
	if mine {
		_ = k.upload.Close()
	}
}

// forget takes a kept writer, which may be nil, out of the lists. The caller holds mu.
func (w *writers) forget(k *writer) {
	if k == nil {
		return
	}
	delete(w.kept, k.id)
	of := slices.DeleteFunc(w.owners[k.owner], func(o *writer) bool { return o == k })
	if w.owners[k.owner] = of; len(of) == 0 {
		delete(w.owners, k.owner)
	}
}
