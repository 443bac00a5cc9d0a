package sqldb

import (
	"context"
	"sync"
	"time"
)

// LockName names work that one goroutine of an installation does at a time.
type LockName string

const (
	// BlobRemoval covers the removal of the bytes of blobs and then of their rows. Of two removals at once, one could remove
	// the bytes of a blob that the other has forgotten and that a push has stored again since.
	BlobRemoval LockName = "countersign:removal"
	// OutboxWrites covers writing tags to the upstream. Of two at once, one could write an older manifest of a tag after the
	// other wrote the current one.
	OutboxWrites LockName = "countersign:outbox"
	// Comparison covers the comparison of repositories with the upstream, so that every tag is requested once.
	Comparison LockName = "countersign:compare"
)

// processLocks serialize the goroutines of this process.
var processLocks = map[LockName]*sync.Mutex{BlobRemoval: {}, OutboxWrites: {}, Comparison: {}}

// WithLock calls f while no other goroutine or process of the installation holds the lock. On PostgreSQL the lock lasts as
// long as a connection, which may break while f runs: before each step that must not run twice at once, f calls check and
// returns its error.
func (d *DB) WithLock(ctx context.Context, name LockName, f func(check func() error) error) error {
	processLocks[name].Lock()
	defer processLocks[name].Unlock()
	if d.postgres == nil { // the database belongs to this process
		return f(func() error { return nil })
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	// The lock outlives ctx: f may be in the middle of a step when ctx ends.
	return unavailable(d.postgres.once(context.WithoutCancel(ctx), func(t *Tx) error {
		if err := t.LockNamed(string(name)); err != nil {
			return err
		}
		var asking sync.Mutex
		check := func() error {
			asking.Lock()
			defer asking.Unlock()
			var one int
			return t.Row(`SELECT 1`).Scan(&one)
		}
		over := make(chan struct{})
		var beating sync.WaitGroup
		beating.Go(func() { // keeps the connection from being idle: only a suspended process loses the lock
			tick := time.NewTicker(pgIdleTimeout / 4)
			defer tick.Stop()
			for {
				select {
				case <-over:
					return
				case <-tick.C:
					if check() != nil {
						return
					}
				}
			}
		})
		defer beating.Wait()
		defer close(over)
		return f(check)
	}))
}
