package sqldb_test

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/storetest"
)

func TestIsUnavailable(t *testing.T) {
	t.Parallel()
	broken := &net.OpError{Op: "read", Net: "tcp", Err: errors.New("connection reset by peer")}
	tests := map[string]struct {
		err  error
		want bool
	}{
		"no error":                     {err: nil},
		"another error":                {err: errors.New("syntax error")},
		"an outage of the database":    {err: fault.NewOutage(fault.Database, broken, "The database does not answer."), want: true},
		"a wrapped outage":             {err: fmt.Errorf("list: %w", fault.NewOutage(fault.Database, broken, "Down.")), want: true},
		"an outage of the upstream":    {err: fault.NewOutage(fault.Upstream, broken, "The upstream does not answer.")},
		"a fault with a broken socket": {err: fault.Wrap(fault.Unavailable, broken, "The remote does not answer.")},
		"a broken connection":          {err: fmt.Errorf("query: %w", broken), want: true},
		"a bad connection":             {err: driver.ErrBadConn, want: true},
		"a closed connection":          {err: sql.ErrConnDone, want: true},
		"a connection cut in a row":    {err: io.ErrUnexpectedEOF, want: true},
		"a connection failure":         {err: &pgconn.PgError{Code: "08006"}, want: true},
		"too many connections":         {err: &pgconn.PgError{Code: "53300"}, want: true},
		"a shutdown of the server":     {err: &pgconn.PgError{Code: "57P01"}, want: true},
		"an idle transaction":          {err: &pgconn.PgError{Code: "25P03"}, want: true},
		"a violated constraint":        {err: &pgconn.PgError{Code: "23505"}},
		"a code that is too short":     {err: &pgconn.PgError{Code: "08"}},
	}
	for name, tt := range tests {
		if got := sqldb.IsUnavailable(tt.err); got != tt.want {
			t.Errorf("%s: IsUnavailable(%v) = %t, want %t", name, tt.err, got, tt.want)
		}
	}
}

// TestIsUnique provokes violations of a primary key and of other constraints.
func TestIsUnique(t *testing.T) {
	t.Parallel()
	d := storetest.Open(t).DB
	insert := func(statement string, args ...any) error {
		return d.InTx(t.Context(), func(x *sqldb.Tx) error { _, err := x.Exec(statement, args...); return err })
	}
	if err := d.PutSetting(t.Context(), "a", []byte("1")); err != nil {
		t.Fatal(err)
	}
	if err := insert(`INSERT INTO setting (name, value) VALUES ('a', 'x')`); !sqldb.IsUnique(err) {
		t.Errorf("a duplicate primary key: %v, want IsUnique", err)
	}
	if err := insert(`INSERT INTO setting (name) VALUES ('b')`); err == nil || sqldb.IsUnique(err) {
		t.Errorf("a missing value: %v, want another error", err)
	}
	if sqldb.IsUnique(nil) || sqldb.IsUnique(errors.New("UNIQUE constraint failed")) {
		t.Error("IsUnique is true for errors of no engine")
	}
}

func TestNotFound(t *testing.T) {
	t.Parallel()
	if err := sqldb.NotFound(fmt.Errorf("scan: %w", sql.ErrNoRows), "No %s.", "tag"); !fault.Is(err, fault.NotFound) {
		t.Errorf("NotFound of a missing row = %v", err)
	}
	other := errors.New("other")
	if err := sqldb.NotFound(other, "No tag."); !errors.Is(err, other) || fault.Is(err, fault.NotFound) {
		t.Errorf("NotFound of another error = %v", err)
	}
	if err := sqldb.NotFound(nil, "No tag."); err != nil {
		t.Errorf("NotFound(nil) = %v", err)
	}
}
