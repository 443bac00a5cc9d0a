// Package sqldb is the database engine beneath the stores: connections to SQLite or PostgreSQL, migrations, transactions,
// prepared statements and named locks. It knows no table except setting.
//
// A statement has one text for both engines; dialect.go lists the differences. On SQLite one goroutine writes, and writes
// that wait at the same time share a commit (writer.go). On PostgreSQL every transaction has a connection of its own and
// runs again after a deadlock (postgres.go), so a transaction's function must not change variables of its caller: it
// returns its result (InTx).
package sqldb

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"sync"
	"time"

	"github.com/countersign/countersign/internal/fault"
)

// DB is an open database. It is safe for concurrent use. Open makes one.
type DB struct {
	read *countedPool
	now  func() time.Time

	postgres *postgres // nil on SQLite
	sqlite   *writer   // nil on PostgreSQL

	migrations fs.FS // of the engine

	once sync.Once
}

// IsPostgres reports whether a database URL names a PostgreSQL database, which several processes may share. A SQLite
// database belongs to one process.
func IsPostgres(rawURL string) bool {
	return strings.HasPrefix(rawURL, "postgres://") || strings.HasPrefix(rawURL, "postgresql://")
}

// Open opens the database at a URL: `sqlite:<path>`, creating an empty file if there is none, or `postgres://…`.
// It does not migrate the schema; see Migrate and Schema. The error is Invalid for another kind of URL and Unavailable
// if the database does not answer.
func Open(ctx context.Context, rawURL string) (*DB, error) {
	files, err := migrationsOf(IsPostgres(rawURL))
	if err != nil {
		return nil, err
	}
	d := &DB{now: time.Now, migrations: files}
	if IsPostgres(rawURL) {
		p, err := openPostgres(rawURL, d.Now)
		if err != nil {
			return nil, err
		}
		d.postgres, d.read = p, &countedPool{pool: p}
	} else {
		path, ok := strings.CutPrefix(rawURL, "sqlite:")
		if !ok || path == "" {
			scheme, _, _ := strings.Cut(rawURL, ":")
			return nil, fault.New(fault.Invalid, "database_url: want sqlite:<path> or postgres://…, got the scheme %q", scheme)
		}
		read, w, err := openFile(ctx, strings.TrimPrefix(path, "//"), d.Now)
		if err != nil {
			return nil, err
		}
		d.sqlite, d.read = w, &countedPool{pool: read}
	}
	if err := d.Ping(ctx); err != nil {
		_ = d.Close()
		return nil, err
	}
	return d, nil
}

// Close closes the database after the writes that it has accepted. Further calls have no effect.
func (d *DB) Close() error {
	var err error
	d.once.Do(func() {
		if d.sqlite != nil {
			d.sqlite.stop()
		}
		err = d.read.Close()
		if d.sqlite != nil {
			err = errors.Join(err, d.sqlite.db.Close())
		}
	})
	return err
}

// Ping returns an Unavailable error if the database does not answer.
func (d *DB) Ping(ctx context.Context) error {
	var one int
	if err := d.read.QueryRowContext(ctx, `SELECT 1`).Scan(&one); err != nil {
		return fault.NewOutage(fault.Database, err, "The database does not answer.")
	}
	return nil
}

// Read returns the querier for reads outside transactions. Its statements stay prepared, so their texts must be constants.
func (d *DB) Read() Querier { return d.read }

// ReadComposed returns the querier for texts that are composed from a caller's filters. Only a few of them stay prepared.
func (d *DB) ReadComposed() Querier { return d.read.composed() }

// Reads returns the number of queries outside transactions since Open.
func (d *DB) Reads() int64 { return d.read.count.Load() }

// Stats describes the use of the connections of this process.
type Stats struct {
	InUse, Idle, Max int
	Waits            int64         // for a connection
	Waited           time.Duration // for connections, in total
	Queued           int           // writes that wait for the writer; on SQLite only, whose connection is not among the others
}

// Stats returns the present use of the connections.
func (d *DB) Stats() Stats {
	s := d.read.Stats()
	stats := Stats{InUse: s.InUse, Idle: s.Idle, Max: s.MaxOpenConnections, Waits: s.WaitCount, Waited: s.WaitDuration}
	if d.sqlite != nil {
		stats.Queued = len(d.sqlite.writes)
	}
	return stats
}

// IsPostgres reports whether the engine is PostgreSQL.
func (d *DB) IsPostgres() bool { return d.postgres != nil }

// Commits returns the number of commits of this process. A cache of rows is valid while the number stays the same. It is
// meaningful on SQLite only, where no other process writes; on PostgreSQL it is 0.
func (d *DB) Commits() uint64 {
	if d.sqlite == nil {
		return 0
	}
	return d.sqlite.commits.Load()
}

// Now returns the time of the database's clock.
func (d *DB) Now() time.Time { return d.now() }

// SetClock replaces the clock. Tests call it before the database is used.
func (d *DB) SetClock(now func() time.Time) { d.now = now }

// ServerTime returns the time of the clock of the database's machine. SQLite uses the clock of this process.
func (d *DB) ServerTime(ctx context.Context) (time.Time, error) {
	if !d.IsPostgres() {
		return d.now(), nil
	}
	var at float64
	err := d.read.QueryRowContext(ctx, `SELECT EXTRACT(EPOCH FROM clock_timestamp())`).Scan(&at)
	return time.UnixMicro(int64(at * 1e6)), err
}
