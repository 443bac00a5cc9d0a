package metrics

import (
	"context"
	"time"
)

// Limits of reading states.
const (
	stateTimeout = 3 * time.Second  // one read, and one check of a dependency
	stateLife    = 10 * time.Second // states are read again after this time
	stateShare   = 20               // at most one part in so many of the time is spent on reading
)

// TaskCount is the number of tasks of a name and a state that have not ended.
type TaskCount struct {
	Name, State string
	Tasks       int64
	Ready       int64         // of Tasks: waiting for nothing but a worker
	Oldest      time.Duration // age of the oldest task
	OldestReady time.Duration // time for which the first of the ready tasks has been ready
}

// Service is a signing service.
type Service struct {
	Name    string
	Workers int       // online workers that can use the key
	Expires time.Time // of the key; zero: never
}

// Stored is the state of the database. It is the same for all processes that share the database.
type Stored struct {
	Tasks        []TaskCount
	Workers      int // online workers
	Services     []Service
	Uploads      int64
	Outbox       int64         // tags that wait to be written to the upstream
	OutboxOldest time.Duration // for which the first of them has waited
}

// Pool is the use of the connections to the database.
type Pool struct {
	InUse, Idle, Max int
	Waits            int64
	Waited           time.Duration
	Queued           int // writes that wait for SQLite's writer
}

// Space is the size of a file system in bytes, and the part of it that is free.
type Space struct{ Size, Free uint64 }

// Sources are the functions that a scrape calls. Stored, Space and Dependencies may take some time: their results are kept for
// stateLife. A nil function stands for a state that this process does not have.
type Sources struct {
	Stored       func(context.Context) (Stored, error)
	Dependencies map[string]func(context.Context) error // each returns an error unless the dependency answers
	Pool         func() Pool
	Audit        func() (waiting int, lost int64) // rows of the audit log
	Certificate  func() time.Time                 // its expiry
	Space        func(context.Context) (Space, error)
}

// Watch adds the states of a process to its metrics. It is called once.
func (m *Metrics) Watch(s Sources) {
	c := &stateCollector{sources: s, metrics: m, up: map[string]*kept[struct{}]{}}
	if s.Stored != nil {
		c.stored = newKept(s.Stored)
	}
	if s.Space != nil {
		c.space = newKept(s.Space)
	}
	for name, check := range s.Dependencies {
		c.up[name] = newKept(func(ctx context.Context) (struct{}, error) { return struct{}{}, check(ctx) })
	}
	m.registry.MustRegister(c)
}
