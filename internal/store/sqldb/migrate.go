package sqldb

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"github.com/countersign/countersign/internal/fault"
)

//go:embed migrations/*/*.sql
var migrations embed.FS

// compatibleFromSetting is the name of the stored setting with the oldest schema version whose binaries can use the
// database, as five digits. Only Migrate writes it, and never lowers it.
const compatibleFromSetting = "schema_compatible_from"

// compatibleFrom is the header of a migration: the oldest schema version whose binaries can use the database after it.
// Without it, only binaries that know the migration can.
var compatibleFrom = regexp.MustCompile(`(?m)^-- compatible-from: ([0-9]{1,5})$`)

// Schema compares the schema of the database with that of this binary.
type Schema struct {
	Database int64 // version of the database's schema; 0: there is none
	Binary   int64 // version of the latest migration of this binary
}

// Older reports whether the database's schema must be migrated before this binary can use it.
func (s Schema) Older() bool { return s.Database < s.Binary }

// Newer reports whether a newer binary migrated the database.
func (s Schema) Newer() bool { return s.Database > s.Binary }

// Schema returns the versions of the schema. The error is Conflict if the schema is newer than this binary's and this
// binary cannot use it.
func (d *DB) Schema(ctx context.Context) (s Schema, err error) {
	err = d.withProvider(func(p *goose.Provider) error {
		s, err = d.schema(ctx, p)
		return err
	})
	return s, err
}

// Migrate upgrades the schema to the version of this binary. It leaves a newer schema unchanged. The error is Conflict
// if this binary cannot use the newer schema.
func (d *DB) Migrate(ctx context.Context) error {
	return d.withProvider(func(p *goose.Provider) error {
		s, err := d.schema(ctx, p)
		if err != nil || s.Newer() {
			return err
		}
		oldest, err := oldestCompatible(d.migrations)
		if err != nil {
			return err
		}
		// An existing database gets the setting first: an older binary must not start on a schema that it cannot use
		// if this process ends between the two.
		if s.Database > 0 {
			if err := d.raiseCompatibleFrom(ctx, oldest); err != nil {
				return err
			}
		}
		if _, err := p.Up(ctx); err != nil {
			return fmt.Errorf("migrate database: %w", err)
		}
		return d.raiseCompatibleFrom(ctx, oldest)
	})
}

// MigrateTo upgrades an empty database to an older version of the schema. Tests of migrations call it.
func (d *DB) MigrateTo(ctx context.Context, version int64) error {
	return d.withProvider(func(p *goose.Provider) error {
		_, err := p.UpTo(ctx, version)
		return err
	})
}

// schema returns the versions of the schema, and a Conflict if this binary cannot use the database's.
func (d *DB) schema(ctx context.Context, p *goose.Provider) (s Schema, err error) {
	if s.Database, s.Binary, err = p.GetVersions(ctx); err != nil {
		return Schema{}, fmt.Errorf("read schema version: %w", err)
	}
	if !s.Newer() {
		return s, nil
	}
	stored, err := d.Setting(ctx, compatibleFromSetting)
	if err != nil {
		return Schema{}, fmt.Errorf("read schema compatibility: %w", err)
	}
	if oldest, err := strconv.ParseInt(string(stored), 10, 64); err != nil || oldest > s.Binary {
		return Schema{}, fault.New(fault.Conflict, "The database has schema version %d, which this program cannot use: it knows version %d. "+
			"Run the version of the program that upgraded the database or a newer one, or restore the backup from before the upgrade.",
			s.Database, s.Binary)
	}
	return s, nil
}

// raiseCompatibleFrom stores the oldest schema version whose binaries can use the database, unless the stored one is
// newer.
func (d *DB) raiseCompatibleFrom(ctx context.Context, version int64) error {
	return d.InTx(ctx, func(t *Tx) error {
		_, err := t.Exec(`INSERT INTO setting (name, value) VALUES ($1, $2)
			ON CONFLICT (name) DO UPDATE SET value = excluded.value WHERE setting.value < excluded.value`,
			compatibleFromSetting, fmt.Appendf(nil, "%05d", version))
		return err
	})
}

// oldestCompatible returns the oldest schema version whose binaries can use the database after all migrations.
func oldestCompatible(files fs.FS) (oldest int64, err error) {
	names, err := fs.Glob(files, "*.sql")
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		from, err := compatibleFromOf(files, name)
		if err != nil {
			return 0, fmt.Errorf("migration %s: %w", name, err)
		}
		oldest = max(oldest, from)
	}
	return oldest, nil
}

// compatibleFromOf returns the oldest schema version whose binaries can use the database after one migration.
func compatibleFromOf(files fs.FS, name string) (int64, error) {
	number, _, _ := strings.Cut(path.Base(name), "_")
	version, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		return 0, err
	}
	text, err := fs.ReadFile(files, name)
	if err != nil {
		return 0, err
	}
	headers := compatibleFrom.FindAllSubmatch(text, -1)
	if len(headers) == 0 {
		return version, nil
	}
	from, err := strconv.ParseInt(string(headers[0][1]), 10, 64)
	if err != nil {
		return 0, err
	}
	if len(headers) > 1 || from < 1 || from > version {
		return 0, errors.New("want one header compatible-from, with a version from 1 to its own")
	}
	return from, nil
}

// withProvider calls do with the migrations of the engine, on a connection of their own.
func (d *DB) withProvider(do func(*goose.Provider) error) error {
	dialect, options, db := goose.DialectSQLite3, []goose.ProviderOption(nil), (*sql.DB)(nil)
	if d.postgres != nil {
		locker, err := lock.NewPostgresSessionLocker() // two processes may migrate at once
		if err != nil {
			return fmt.Errorf("lock migrations: %w", err)
		}
		dialect, options, db = goose.DialectPostgres, []goose.ProviderOption{goose.WithSessionLocker(locker)}, d.postgres.db
	} else {
		var err error
		if db, err = openSQLite(d.sqlite.path, 1); err != nil {
			return err
		}
		defer func() { _ = db.Close() }()
	}
	p, err := goose.NewProvider(dialect, db, d.migrations, options...)
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	return do(p)
}

// migrationsOf returns the migrations of an engine.
func migrationsOf(postgres bool) (fs.FS, error) {
	if postgres {
		return fs.Sub(migrations, "migrations/postgres")
	}
	return fs.Sub(migrations, "migrations/sqlite")
}
