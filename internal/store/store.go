// Package store is the only SQL: it keeps the truth about everything but the bytes of large blobs.
//
// One Store is one database. Every change of a repository's content is one transaction that goes through a change (see
// change.go); every change of a task is a compare-and-set on its attempt (see task.go). It knows no HTTP, no storage
// registry and no keys.
package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"github.com/countersign/countersign/internal/fault"
)

//go:embed migrations/*/*.sql
var migrations embed.FS

// readConns is how many connections read at once; SQLite readers never wait for the writer (WAL).
const readConns = 8

// Store is an open database. It is safe for concurrent use. Make one with Open.
type Store struct {
	read *countedPool
	now  func() time.Time

	postgres *postgres // nil on SQLite

	path  string  // of the SQLite file
	write *sql.DB // of the writer's connection to it

	memory *memory // nil: everything is read from the database

	outbox  bool
	sealing *Sealing // nil: nothing signs on push

	jobs    chan *job
	closing chan struct{}
	writer  sync.WaitGroup
	once    sync.Once
}

// pool is where reads go.
type pool interface {
	querier
	// composed returns the querier for texts that are composed from a caller's filters. There is no end of those, so few stay prepared.
	composed() querier
	Close() error
}

// IsPostgres says whether a URL names a PostgreSQL database, which many processes may share; SQLite has one owner.
func IsPostgres(rawURL string) bool {
	return strings.HasPrefix(rawURL, "postgres://") || strings.HasPrefix(rawURL, "postgresql://")
}

// Open opens the database that a URL names: `sqlite:<path>`, creating an empty file where there is none, or `postgres://…`. It does not migrate: see
// Migrate and Pending.
func Open(ctx context.Context, rawURL string) (*Store, error) {
	if IsPostgres(rawURL) {
		p, err := openPostgres(rawURL)
		if err != nil {
			return nil, err
		}
		s := &Store{read: &countedPool{pool: p}, now: time.Now, postgres: p, closing: make(chan struct{})}
		if err := s.Ping(ctx); err != nil {
			_ = s.Close()
			return nil, err
		}
		return s, nil
	}
	path, ok := strings.CutPrefix(rawURL, "sqlite:")
	if !ok || path == "" {
		scheme, _, _ := strings.Cut(rawURL, ":")
		return nil, fault.New(fault.Invalid, "database_url: want sqlite:<path> or postgres://…, got the scheme %q", scheme)
	}
	return openFile(ctx, strings.TrimPrefix(path, "//"))
}

// openFile opens a SQLite database and starts its writer.
func openFile(ctx context.Context, path string) (*Store, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("database directory: %w", err)
	}
	if err := registerRegexp(); err != nil {
		return nil, fmt.Errorf("register regexp: %w", err)
	}
	// It holds password hashes and the token key: SQLite gives its other files the same rights.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	write, err := openSQLite(path, 1)
	if err != nil {
		return nil, err
	}
	read, err := openSQLite(path, readConns)
	if err != nil {
		_ = write.Close()
		return nil, err
	}
	conn, err := write.Conn(ctx)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open database: %w", err), read.Close(), write.Close())
	}
	s := &Store{
		path: path, read: &countedPool{pool: newPrepared(read)}, write: write, now: time.Now, jobs: make(chan *job, maxBatch), closing: make(chan struct{}),
	}
	s.writer.Go(func() { s.runWriter(&connection{conn: conn, stmts: map[string]*sql.Stmt{}}) })
	if err := s.Ping(ctx); err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

func openSQLite(path string, conns int) (*sql.DB, error) {
	// FULL: an acknowledged write survives a power cut (architecture 7). The log is moved into the file every 4,000 pages, 16 MiB: many pushes change the same pages.
	q := url.Values{
		"_pragma": {"journal_mode(WAL)", "synchronous(FULL)", "wal_autocheckpoint(4000)", "busy_timeout(10000)", "foreign_keys(ON)", "temp_store(MEMORY)"},
	}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+q.Encode())
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return db, nil
}

// Close ends the writer, after the writes that it has accepted, and closes the database. It may be called twice.
func (s *Store) Close() error {
	var err error
	s.once.Do(func() {
		close(s.closing)
		s.writer.Wait()
		err = s.read.Close()
		if s.write != nil {
			err = errors.Join(err, s.write.Close())
		}
	})
	return err
}

// Ping says whether the database answers.
func (s *Store) Ping(ctx context.Context) error {
	var one int
	if err := s.read.QueryRowContext(ctx, `SELECT 1`).Scan(&one); err != nil {
		return fault.Wrap(fault.Unavailable, err, "The database does not answer.")
	}
	return nil
}

// Migrate brings the schema up to this binary's. It refuses a schema that is newer than the binary.
func (s *Store) Migrate(ctx context.Context) error {
	return s.withProvider(func(p *goose.Provider) error {
		have, want, err := p.GetVersions(ctx)
		if err != nil {
			return fmt.Errorf("read schema version: %w", err)
		}
		if have > want {
			return tooNew(have, want)
		}
		if _, err := p.Up(ctx); err != nil {
			return fmt.Errorf("migrate database: %w", err)
		}
		return nil
	})
}

// Pending says whether the schema is older than this binary's. A schema that is newer is a Conflict.
func (s *Store) Pending(ctx context.Context) (pending bool, err error) {
	err = s.withProvider(func(p *goose.Provider) error {
		have, want, err := p.GetVersions(ctx)
		if err != nil {
			return fmt.Errorf("read schema version: %w", err)
		}
		if have > want {
			return tooNew(have, want)
		}
		pending = have < want
		return nil
	})
	return pending, err
}

func tooNew(have, want int64) error {
	return fault.New(fault.Conflict, "The database's schema is version %d; this binary knows only %d. Use a newer binary.", have, want)
}

// withProvider hands out the migrations, over a connection of their own.
func (s *Store) withProvider(do func(*goose.Provider) error) error {
	engine, dialect, options := "sqlite", goose.DialectSQLite3, []goose.ProviderOption(nil)
	var db *sql.DB
	if s.postgres != nil {
		locker, err := lock.NewPostgresSessionLocker() // two processes may migrate at once
		if err != nil {
			return fmt.Errorf("lock migrations: %w", err)
		}
		engine, dialect, options, db = "postgres", goose.DialectPostgres, []goose.ProviderOption{goose.WithSessionLocker(locker)}, s.postgres.db
	} else {
		var err error
		if db, err = openSQLite(s.path, 1); err != nil {
			return err
		}
		defer func() { _ = db.Close() }()
	}
	dir, err := fs.Sub(migrations, "migrations/"+engine)
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(dialect, db, dir, options...)
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	return do(p)
}
