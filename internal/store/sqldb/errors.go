package sqldb

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"net"

	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/countersign/countersign/internal/fault"
)

// Error codes of PostgreSQL (appendix A of its manual).
const (
	pgUnique        = "23505"
	pgSerialization = "40001"
	pgDeadlock      = "40P01"
	pgIdleInTx      = "25P03"
)

// unavailable turns the error of a database that does not answer into an outage and returns other errors as they are.
func unavailable(err error) error {
	if IsUnavailable(err) && !fault.IsOutage(err, fault.Database) {
		return fault.NewOutage(fault.Database, err, "The database does not answer.")
	}
	return err
}

// IsUnavailable reports whether an error comes from a database that does not answer, because it is being restarted or the
// connection is broken. Errors of reads outside transactions are those of the driver.
func IsUnavailable(err error) bool {
	if err == nil {
		return false
	}
	if fault.IsOutage(err, fault.Database) {
		return true
	}
	if _, ok := errors.AsType[*fault.Error](err); ok { // an outage of another system
		return false
	}
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && len(e.Code) == 5 {
		switch e.Code[:2] { // connection exceptions, insufficient resources, operator intervention
		case "08", "53", "57":
			return true
		}
		return e.Code == pgIdleInTx
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return true
	}
	_, network := errors.AsType[*net.OpError](err)
	return network || errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) || errors.Is(err, io.ErrUnexpectedEOF)
}

// IsUnique reports whether an error is a violation of a UNIQUE or PRIMARY KEY constraint.
func IsUnique(err error) bool {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE || e.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY
	}
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && e.Code == pgUnique
}

// NotFound turns sql.ErrNoRows into a NotFound fault with a message and returns other errors as they are.
func NotFound(err error, format string, args ...any) error {
	if errors.Is(err, sql.ErrNoRows) {
		return fault.New(fault.NotFound, format, args...)
	}
	return err
}
