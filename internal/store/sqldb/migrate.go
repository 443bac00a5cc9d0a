package sqldb

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"github.com/countersign/countersign/internal/fault"
)

//go:embed migrations/*/*.sql
var migrations embed.FS

// Migrate upgrades the schema to the version of this binary. A newer schema is a Conflict.
func (d *DB) Migrate(ctx context.Context) error {
	return d.withProvider(func(p *goose.Provider) error {
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

// MigrateTo upgrades an empty database to an older version of the schema. Tests of migrations call it.
func (d *DB) MigrateTo(ctx context.Context, version int64) error {
	return d.withProvider(func(p *goose.Provider) error {
		_, err := p.UpTo(ctx, version)
		return err
	})
}

// Pending reports whether the schema is older than this binary's. A newer schema is a Conflict.
func (d *DB) Pending(ctx context.Context) (pending bool, err error) {
	err = d.withProvider(func(p *goose.Provider) error {
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

// withProvider calls do with the migrations of the engine, on a connection of their own.
func (d *DB) withProvider(do func(*goose.Provider) error) error {
	engine, dialect, options := "sqlite", goose.DialectSQLite3, []goose.ProviderOption(nil)
	var db *sql.DB
	if d.postgres != nil {
		locker, err := lock.NewPostgresSessionLocker() // two processes may migrate at once
		if err != nil {
			return fmt.Errorf("lock migrations: %w", err)
		}
		engine, dialect, options, db = "postgres", goose.DialectPostgres, []goose.ProviderOption{goose.WithSessionLocker(locker)}, d.postgres.db
	} else {
		var err error
		if db, err = openSQLite(d.sqlite.path, 1); err != nil {
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
