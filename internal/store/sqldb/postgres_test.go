package sqldb

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pgtest"
)

// TestPostgresSession verifies the settings of a session, with which PostgreSQL ends transactions of suspended processes.
func TestPostgresSession(t *testing.T) {
	t.Parallel()
	d := openPostgresForTest(t, "")
	for setting, want := range map[string]string{
		"idle_in_transaction_session_timeout": "10s", "application_name": "countersign",
	} {
		var got string
		if err := d.Read().QueryRowContext(t.Context(), `SHOW `+setting).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %q, %v, want %q", setting, got, err, want)
		}
	}
	var name string
	other := openPostgresForTest(t, "&application_name=other")
	if err := other.Read().QueryRowContext(t.Context(), `SHOW application_name`).Scan(&name); err != nil || name != "other" {
		t.Errorf("the application name is %q, %v, want that of the URL", name, err)
	}
}

// openPostgresForTest returns an empty database on PostgreSQL with options of its URL.
func openPostgresForTest(t *testing.T, options string) *DB {
	t.Helper()
	url := pgtest.URL(t)
	if url == "" {
		t.Skip("the tests run on SQLite")
	}
	d, err := Open(t.Context(), url+options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// TestPostgresErrorsHideThePassword verifies the errors of URLs that cannot be parsed, and of a server that does not answer.
func TestPostgresErrorsHideThePassword(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		url  string
		want func(error) bool
	}{
		{url: "postgres://user:secret@host:port/db", want: func(err error) bool { return fault.Is(err, fault.Invalid) }},
		{url: "postgres://user:secret@127.0.0.1:1/db", want: func(err error) bool { return fault.IsOutage(err, fault.Database) }},
		{url: "postgresql://user:secret@127.0.0.1:1/db", want: func(err error) bool { return fault.IsOutage(err, fault.Database) }},
	} {
		d, err := Open(t.Context(), tt.url)
		if err == nil {
			_ = d.Close()
			t.Fatalf("Open(%s) succeeded", tt.url)
		}
		if !tt.want(err) || strings.Contains(err.Error(), "secret") {
			t.Errorf("Open(%s) = %v, want another error", tt.url, err)
		}
	}
}

// TestAgain verifies that only transactions which PostgreSQL aborted in favor of others run again, with waits between the
// attempts and a bound.
func TestAgain(t *testing.T) {
	t.Parallel()
	other := errors.New("other")
	for name, tt := range map[string]struct {
		failures     int // attempts that fail
		err          error
		wantAttempts int
		wantErr      bool
	}{
		"success":                 {wantAttempts: 1},
		"serialization failure":   {failures: 2, err: &pgconn.PgError{Code: pgSerialization}, wantAttempts: 3},
		"deadlock":                {failures: 1, err: &pgconn.PgError{Code: pgDeadlock}, wantAttempts: 2},
		"deadlock in each":        {failures: 100, err: &pgconn.PgError{Code: pgDeadlock}, wantAttempts: pgTries, wantErr: true},
		"constraint":              {failures: 1, err: &pgconn.PgError{Code: pgUnique}, wantAttempts: 1, wantErr: true},
		"error of the function":   {failures: 1, err: other, wantAttempts: 1, wantErr: true},
		"server that is shutting": {failures: 1, err: &pgconn.PgError{Code: "57P01"}, wantAttempts: 1, wantErr: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				began, attempts := time.Now(), 0
				err := again(t.Context(), func() error {
					if attempts++; attempts <= tt.failures {
						return tt.err
					}
					return nil
				})
				if attempts != tt.wantAttempts || (err != nil) != tt.wantErr || tt.wantErr && !errors.Is(err, tt.err) {
					t.Errorf("%d attempts, %v, want %d", attempts, err, tt.wantAttempts)
				}
				if e, ok := errors.AsType[*pgconn.PgError](tt.err); ok && fault.IsOutage(err, fault.Database) != (e.Code == "57P01") {
					t.Errorf("the error is %v, want an outage only while the server shuts down", err)
				}
				if took := time.Since(began); took > time.Duration(attempts)*pgMaxWait*2 || attempts > 1 && took == 0 {
					t.Errorf("%d attempts took %v", attempts, took)
				}
			})
		})
	}
}

// TestAgainEndsWithItsContext verifies that a canceled caller does not wait for further attempts.
func TestAgainEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	attempts := 0
	err := again(ctx, func() error {
		attempts++
		cancel()
		return &pgconn.PgError{Code: pgDeadlock}
	})
	if err == nil || attempts != 1 {
		t.Errorf("%d attempts, %v, want one with an error", attempts, err)
	}
}

// TestTextsAreTranslatedOnce verifies that the texts of the stores are cached, and those of callers are not.
func TestTextsAreTranslatedOnce(t *testing.T) {
	t.Parallel()
	d := openPostgresForTest(t, "")
	p := d.postgres
	for range 2 {
		if got := p.text(`SELECT INSTR('ab', 'b')`); got != `SELECT STRPOS('ab', 'b')` {
			t.Errorf("the text is translated to %q", got)
		}
	}
	before := len(p.texts)
	var n int
	if err := d.ReadComposed().QueryRowContext(t.Context(), `SELECT INSTR('abc', 'c')`).Scan(&n); err != nil || n != 3 {
		t.Errorf("a composed text: %d, %v, want 3", n, err)
	}
	if got := len(p.texts); got != before {
		t.Errorf("%d texts are cached after a composed one, want %d", got, before)
	}
}
