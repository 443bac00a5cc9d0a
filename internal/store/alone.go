package store

import (
	"context"
	"sync"
	"time"
)

// Sole is work that one process of an installation does at a time, and one goroutine in it.
type Sole string

// The works that are done alone.
const (
	// Removing the bytes of blobs that are doomed, and then forgetting them: of two at once one might remove the bytes of a blob that the other has
	// forgotten and that a push has brought back since.
	Removing Sole = "countersign:removal"
	// WritingThrough tags to the upstream: of two at once one might write what a tag stood for after the other wrote what it stands for now.
	WritingThrough Sole = "countersign:outbox"
	// Comparing repositories with the upstream: two at once would ask it for everything twice.
	Comparing Sole = "countersign:compare"
)

// soles are held in this process by who does such work.
var soles = map[Sole]*sync.Mutex{Removing: {}, WritingThrough: {}, Comparing: {}}

// Alone runs f while nobody else does the same work, in whatever process. On PostgreSQL that holds as long as a connection stands, which may break beneath f: before each
// step that must not be done beside another's, f asks still, and ends with its error.
func (s *Store) Alone(ctx context.Context, work Sole, f func(still func() error) error) error {
	soles[work].Lock()
	defer soles[work].Unlock()
	if s.postgres == nil { // one process has the database
		return f(func() error { return nil })
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	// The lock outlives ctx: f may be in the middle of a step when that ends.
	return unavailable(s.postgres.once(context.WithoutCancel(ctx), s, func(t *tx) error {
		if err := t.lockNamed(string(work)); err != nil {
			return err
		}
		var asking sync.Mutex
		still := func() error {
			asking.Lock()
			defer asking.Unlock()
			var one int
			return t.row(`SELECT 1`).Scan(&one)
		}
		over := make(chan struct{})
		var beating sync.WaitGroup
		beating.Go(func() { // f may take its time; only a process that stands still loses the lock
			tick := time.NewTicker(pgStill / 4)
			defer tick.Stop()
			for {
				select {
				case <-over:
					return
				case <-tick.C:
					if still() != nil {
						return
					}
				}
			}
		})
		defer beating.Wait()
		defer close(over)
		return f(still)
	}))
}
