package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// readConns is the number of connections that read at once. SQLite's readers never wait for the writer (WAL).
const readConns = 8

// openFile opens a SQLite database, creating the file if there is none. It returns the pool for reads and the writer, which runs.
func openFile(ctx context.Context, path string, now func() time.Time) (pool, *writer, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, nil, fmt.Errorf("database directory: %w", err)
	}
	if err := registerRegexp(); err != nil {
		return nil, nil, fmt.Errorf("register regexp: %w", err)
	}
	// The file holds password hashes and the token key. SQLite gives its other files the same permissions.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("database: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, nil, fmt.Errorf("database: %w", err)
	}
	db, err := openSQLite(path, 1)
	if err != nil {
		return nil, nil, err
	}
	read, err := openSQLite(path, readConns)
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open database: %w", err), read.Close(), db.Close())
	}
	w := &writer{
		path: path, db: db, conn: &connection{conn: conn, stmts: map[string]*sql.Stmt{}}, now: now,
		writes: make(chan *write, maxBatch), closing: make(chan struct{}),
	}
	w.done.Go(w.loop)
	return newPrepared(read), w, nil
}

// sqliteURL returns the data source name of a SQLite file.
func sqliteURL(path string) string {
	// FULL: an acknowledged write survives a power failure. The log is moved into the file every 4,000 pages (16 MiB),
	// because many pushes change the same pages.
	q := url.Values{"_pragma": {
		"journal_mode(WAL)", "synchronous(FULL)", "wal_autocheckpoint(4000)", "busy_timeout(10000)", "foreign_keys(ON)", "temp_store(MEMORY)",
	}}
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + q.Encode()
}

// openSQLite opens a SQLite file with at most so many connections.
func openSQLite(path string, conns int) (*sql.DB, error) {
	db, err := sql.Open("sqlite", sqliteURL(path))
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return db, nil
}
