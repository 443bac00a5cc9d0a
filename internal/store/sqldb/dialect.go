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

	// lock locks the name $1 until the transaction ends, lockShared together with others. Both are empty on SQLite, where
	// one transaction runs at a time.
	lock, lockShared string
}

var sqliteDialect = Dialect{NextSeq: "(SELECT COALESCE(MAX(seq), 0) + 1 FROM task)"}

var postgresDialect = Dialect{
	ForUpdate: " FOR UPDATE", ForUpdateFree: " FOR UPDATE SKIP LOCKED", ForShare: " FOR SHARE", NextSeq: "nextval('task_seq')",
	lock:       "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))",
	lockShared: "SELECT pg_advisory_xact_lock_shared(hashtextextended($1, 0))",
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

// contentLock is the lock between transactions that add references to content, which share it, and sweeps, which remove
// unreferenced content.
const contentLock = "countersign:references"

// LockRow locks a row of a table until the transaction ends. A transaction that reads a row and writes it back with changes
// calls it first; otherwise it could undo a change that another transaction commits in between. A missing row is no error.
func (t *Tx) LockRow(table, id string) error {
	if t.Dialect.ForUpdate == "" {
		return nil
	}
	_, err := t.Exec(`SELECT 1 FROM `+table+` WHERE id = $1`+t.Dialect.ForUpdate, id)
	return err
}

// LockNamed locks a name until the transaction ends.
func (t *Tx) LockNamed(name string) error { return t.runLock(t.Dialect.lock, name) }

// LockContentShared is called by transactions that add references to content. No sweep runs until the transaction ends.
func (t *Tx) LockContentShared() error { return t.runLock(t.Dialect.lockShared, contentLock) }

// LockContent is called by sweeps. It waits for the transactions that hold LockContentShared, and no other begins until this
// one ends.
func (t *Tx) LockContent() error { return t.runLock(t.Dialect.lock, contentLock) }

func (t *Tx) runLock(query, name string) error {
	if query == "" {
		return nil
	}
	_, err := t.Exec(query, name)
	return err
}
