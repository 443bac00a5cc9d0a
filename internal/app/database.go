package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/signing/script"
)

// errOldSchema reports a shared database with an old schema. Other processes can be using it, so only an operator
// migrates it.
var errOldSchema = errors.New("the database has no schema or an older one than this program: run `countersign migrate`")

// openForServing opens the database: SQLite as its only user, PostgreSQL together with other processes. release
// closes it.
func (a *App) openForServing(ctx context.Context) (s *store.Store, release func(), err error) {
	c := a.config
	if sqldb.IsPostgres(c.DatabaseURL) {
		if err := os.MkdirAll(c.Data, 0o700); err != nil {
			return nil, nil, fmt.Errorf("data directory: %w", err)
		}
		if s, err = a.openShared(ctx); err != nil {
			return nil, nil, err
		}
		if err := script.Sweep(c.Signing.WorkDir, c.Signing.ScriptTimeout); err != nil {
			return nil, nil, errors.Join(err, s.DB.Close())
		}
		return s, func() { _ = s.DB.Close() }, nil
	}
	lock, err := sqldb.LockDir(c.Data)
	if err != nil {
		return nil, nil, err
	}
	if err = script.Sweep(c.Signing.WorkDir, c.Signing.ScriptTimeout); err == nil {
		s, err = a.openOwned(ctx)
	}
	if err != nil {
		return nil, nil, errors.Join(err, lock.Release())
	}
	return s, func() { _ = s.DB.Close(); _ = lock.Release() }, nil
}

// openOwned opens an SQLite database whose lock the caller holds. It migrates the schema, and releases the tasks and
// removes the workers of the process that used the database before.
func (a *App) openOwned(ctx context.Context) (*store.Store, error) {
	s, err := store.Open(ctx, a.config.DatabaseURL)
	if err != nil {
		return nil, err
	}
	err = s.DB.Migrate(ctx)
	if err == nil {
		_, err = a.checkSchema(ctx, s)
	}
	if err == nil {
		_, err = s.Tasks.ReclaimTasks(ctx, true)
	}
	if err == nil {
		err = s.Tasks.RemoveWorker(ctx, "", true)
	}
	if err != nil {
		return nil, errors.Join(err, s.DB.Close())
	}
	s.Serving.EnableCache() // requires the lock
	return s, nil
}

// openShared opens a database that other processes use too. It does not migrate the schema.
func (a *App) openShared(ctx context.Context) (*store.Store, error) {
	s, err := store.Open(ctx, a.config.DatabaseURL)
	if err != nil {
		return nil, err
	}
	older, err := a.checkSchema(ctx, s)
	if err == nil && older {
		err = errOldSchema
	}
	if err != nil {
		return nil, errors.Join(err, s.DB.Close())
	}
	return s, nil
}

// checkSchema reports whether the schema must be migrated. It logs a newer schema that this program can use.
func (a *App) checkSchema(ctx context.Context, s *store.Store) (older bool, err error) {
	schema, err := s.DB.Schema(ctx)
	if err != nil {
		return false, err
	}
	if schema.Newer() {
		a.log.WarnContext(ctx, "a newer version of the program upgraded the database; this version can use it: finish the upgrade",
			slog.Int64("schema", schema.Database), slog.Int64("known_schema", schema.Binary))
	}
	return schema.Older(), nil
}

// WithStore calls do with the open database and closes it. A server may be running. WithStore creates a missing
// SQLite database, and migrates one that no server is using. It does not migrate PostgreSQL.
func (a *App) WithStore(ctx context.Context, do func(*store.Store) error) error {
	s, err := store.Open(ctx, a.config.DatabaseURL)
	if err != nil {
		return err
	}
	defer func() { _ = s.DB.Close() }()
	schema, err := s.DB.Schema(ctx)
	if err != nil {
		return err
	}
	if schema.Older() {
		if sqldb.IsPostgres(a.config.DatabaseURL) {
			return errOldSchema
		}
		if err := a.migrateUnused(ctx, s); err != nil {
			return err
		}
	}
	return do(s)
}

// WithExistingStore is like WithStore, but returns an error if the SQLite database does not exist. It serves commands
// that have no meaning without data, which are often called with a wrong data directory.
func (a *App) WithExistingStore(ctx context.Context, do func(*store.Store) error) error {
	if err := a.requireDatabase(); err != nil {
		return err
	}
	return a.WithStore(ctx, do)
}

// requireDatabase returns an error if the SQLite database does not exist.
func (a *App) requireDatabase() error {
	if path, missing := a.MissingDatabase(); missing {
		return fmt.Errorf("there is no database at %s: set COUNTERSIGN_DATA to the data directory of the server", path)
	}
	return nil
}

// Migrate updates the schema of the database. It creates a missing SQLite database.
func (a *App) Migrate(ctx context.Context) error {
	if !sqldb.IsPostgres(a.config.DatabaseURL) {
		return a.WithStore(ctx, func(*store.Store) error { return nil })
	}
	s, err := store.Open(ctx, a.config.DatabaseURL)
	if err != nil {
		return err
	}
	if err = s.DB.Migrate(ctx); err == nil {
		_, err = a.checkSchema(ctx, s)
	}
	return errors.Join(err, s.DB.Close())
}

// migrateUnused updates the schema of an SQLite database, unless a server is using it.
func (a *App) migrateUnused(ctx context.Context, s *store.Store) error {
	lock, err := sqldb.LockDir(filepath.Dir(a.databasePath()))
	if fault.Is(err, fault.Conflict) {
		return errors.New("the database schema is older than this program, and a server is using the database: stop the server first")
	} else if err != nil {
		return err
	}
	return errors.Join(s.DB.Migrate(ctx), lock.Release())
}

// MissingDatabase returns the path of the SQLite database, and whether it does not exist. A PostgreSQL database is not
// missing.
func (a *App) MissingDatabase() (path string, missing bool) {
	if sqldb.IsPostgres(a.config.DatabaseURL) {
		return "", false
	}
	path = a.databasePath()
	_, err := os.Stat(path)
	return path, errors.Is(err, os.ErrNotExist)
}

// databasePath returns the path of the SQLite database.
func (a *App) databasePath() string {
	path, _ := strings.CutPrefix(a.config.DatabaseURL, "sqlite:")
	return strings.TrimPrefix(path, "//")
}
