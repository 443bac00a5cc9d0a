package app_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/app"
	"github.com/countersign/countersign/internal/app/apptest"
	"github.com/countersign/countersign/internal/eventually"
	"github.com/countersign/countersign/internal/pgtest"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/storetest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// TestWithStore verifies which functions create a missing SQLite database.
func TestWithStore(t *testing.T) {
	t.Parallel()
	called := func(*store.Store) error { return nil }
	for name, tt := range map[string]struct {
		open func(context.Context, *app.App) error
		want string // part of the error
	}{
		"WithStore": {open: func(ctx context.Context, a *app.App) error { return a.WithStore(ctx, called) }},
		"Migrate":   {open: func(ctx context.Context, a *app.App) error { return a.Migrate(ctx) }},
		"WithExistingStore": {
			open: func(ctx context.Context, a *app.App) error { return a.WithExistingStore(ctx, called) },
			want: "set COUNTERSIGN_DATA",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := apptest.Load(t)
			a, _ := apptest.New(c)
			err := tt.open(t.Context(), a)
			_, statErr := os.Stat(filepath.Join(c.Data, "countersign.db"))
			if tt.want == "" {
				if err != nil || statErr != nil {
					t.Fatalf("%v, database: %v, want a new database", err, statErr)
				}
				if err := a.WithExistingStore(t.Context(), called); err != nil {
					t.Errorf("WithExistingStore of the new database = %v", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || !os.IsNotExist(statErr) {
				t.Errorf("%v, database: %v, want an error with %q and no database", err, statErr, tt.want)
			}
		})
	}
}

// TestPostgresSchema verifies that only Migrate creates the schema of a shared database.
func TestPostgresSchema(t *testing.T) {
	t.Parallel()
	c := apptest.Load(t)
	c.DatabaseURL = pgtest.Database(t)
	a, _ := apptest.New(c)
	called := func(*store.Store) error { return nil }
	for name, err := range map[string]error{
		"WithStore": a.WithStore(t.Context(), called), "WithExistingStore": a.WithExistingStore(t.Context(), called),
		"Serve": a.Serve(t.Context(), app.Greeting{Out: &apptest.Buffer{}}),
	} {
		if err == nil || !strings.Contains(err.Error(), "run `countersign migrate`") {
			t.Errorf("%s without a schema = %v, want an error with the command", name, err)
		}
	}
	for range 2 {
		if err := a.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.WithStore(t.Context(), called); err != nil {
		t.Errorf("WithStore after Migrate = %v", err)
	}
	s := apptest.Start(t, c)
	s.Push(t, "team/app", "v1")
}

// TestWorkErrors verifies the errors of a worker without a database or queue that it can share.
func TestWorkErrors(t *testing.T) {
	t.Parallel()
	const postgres = "DATABASE_URL=postgres://localhost:1/x"
	for name, tt := range map[string]struct {
		variables []string
		want      string
	}{
		"SQLite":      {want: "COUNTERSIGN_DATABASE_URL"},
		"no Redis":    {variables: []string{postgres}, want: "COUNTERSIGN_REDIS_URL"},
		"no workers":  {variables: []string{postgres, "REDIS_URL=redis://localhost:1", "WORKERS=0"}, want: "COUNTERSIGN_WORKERS"},
		"no database": {variables: []string{postgres, "REDIS_URL=redis://localhost:1"}, want: "localhost"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, _ := apptest.New(apptest.Load(t, tt.variables...))
			if err := a.Work(t.Context()); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Work = %v, want an error with %q", err, tt.want)
			}
		})
	}
}

// TestWork verifies that a worker starts without Redis, which may become available later, and stops without an error.
func TestWork(t *testing.T) {
	t.Parallel()
	c := apptest.Load(t, "REDIS_URL=redis://127.0.0.1:1")
	c.DatabaseURL = pgtest.Database(t)
	a, log := apptest.New(c)
	if err := a.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Work(ctx) }()
	eventually.True(t, time.Minute, func() bool { return strings.Contains(log.String(), "worker started") }, "the worker starts:\n%s", log)
	stop()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("Work = %v, want nil", err)
		}
	case <-time.After(time.Minute):
		t.Fatalf("the worker does not stop:\n%s", log)
	}
}

// TestServeOnNewerSchema verifies that a server runs on the schema of a newer version that declared it compatible, with a
// warning, and refuses any other newer schema.
func TestServeOnNewerSchema(t *testing.T) {
	t.Parallel()
	for name, url := range map[string]func(testing.TB) string{"SQLite": nil, "PostgreSQL": pgtest.Database} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := apptest.Load(t)
			if url != nil {
				c.DatabaseURL = url(t)
			}
			a, _ := apptest.New(c)
			if err := a.Migrate(t.Context()); err != nil {
				t.Fatal(err)
			}
			execute := func(statements ...string) {
				t.Helper()
				if err := a.WithStore(t.Context(), func(s *store.Store) error { storetest.ExecAll(t, s, statements...); return nil }); err != nil {
					t.Fatal(err)
				}
			}
			execute(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (90000, TRUE)`,
				`ALTER TABLE repository ADD COLUMN newer TEXT NOT NULL DEFAULT ''`, `CREATE TABLE newer (id BIGINT PRIMARY KEY)`)
			s := apptest.Start(t, c)
			s.Push(t, "team/app", "v1")
			if !strings.Contains(s.Log.String(), "schema=90000") {
				t.Errorf("no warning about the newer schema:\n%s", s.Log)
			}
			if err := s.Stop(t); err != nil {
				t.Fatal(err)
			}
			if err := a.Migrate(t.Context()); err != nil {
				t.Errorf("Migrate on a newer, compatible schema = %v", err)
			}
			execute(`DELETE FROM setting WHERE name = 'schema_compatible_from'`)
			for command, err := range map[string]error{
				"Serve": a.Serve(t.Context(), app.Greeting{Out: &apptest.Buffer{}}), "Migrate": a.Migrate(t.Context()),
				"WithStore": a.WithStore(t.Context(), func(*store.Store) error { return nil }),
			} {
				if err == nil || !strings.Contains(err.Error(), "schema version 90000") {
					t.Errorf("%s on an incompatible schema = %v, want an error with the version", command, err)
				}
			}
		})
	}
}
