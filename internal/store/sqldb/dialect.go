package sqldb

import "strings"

// Dialect holds the parts of statements that differ between the engines. All other text is the same for both.
type Dialect struct {
	// ForUpdate locks the rows that a SELECT reads until the transaction ends. It is empty on SQLite, whose transaction has
	// the whole database.
	ForUpdate string
	// ForUpdateFree is ForUpdate that skips rows which other transactions have locked.
	ForUpdateFree string
	// ForShare keeps the rows that a SELECT reads unchanged until the transaction ends. Transactions share such a lock.
	ForShare string
	// NextSeq is the expression for the next sequence number of a task.
	NextSeq string
	// NextAccount is the expression for the id of a new account. No id is used again.
	NextAccount string

	// lock locks the name $1 until the transaction ends, lockShared together with others. Both are empty on SQLite, where
	// one transaction runs at a time.
	lock, lockShared string
}

var sqliteDialect = Dialect{
	NextSeq:     "(SELECT COALESCE(MAX(seq), 0) + 1 FROM task)",
	NextAccount: "(SELECT MAX(last, COALESCE((SELECT MAX(id) FROM account), 0)) + 1 FROM account_serial)",
}

var postgresDialect = Dialect{
	ForUpdate: " FOR UPDATE", ForUpdateFree: " FOR UPDATE SKIP LOCKED", ForShare: " FOR SHARE", NextSeq: "nextval('task_seq')",
	NextAccount: "nextval(pg_get_serial_sequence('account', 'id'))",
	lock:        "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))",
	lockShared:  "SELECT pg_advisory_xact_lock_shared(hashtextextended($1, 0))",
}

// toPostgres translates the words of SQLite in the stores' texts. json_entries and json_member are functions of the
// PostgreSQL schema.
var toPostgres = strings.NewReplacer(
	"SELECT j.value FROM json_each(", `SELECT j.value COLLATE "C" FROM json_entries(`,
	"json_each(", "json_entries(",
	"json_extract(j.value, '$.", "json_member(j.value, '",
	"INSTR(", "STRPOS(",
	" REGEXP ", " ~ ",
	"x''", "''::bytea",
)
