package store

import "strings"

// dialect is where the texts of the engines differ. All else is one text for both.
type dialect struct {
	// forUpdate locks the rows that a SELECT reads, until the transaction ends; SQLite's transaction has the whole database.
	forUpdate string
	// forUpdateFree is forUpdate that passes over rows which others have locked.
	forUpdateFree string
	// forShare keeps the rows that a SELECT reads as they are until the transaction ends; others may read them the same way.
	forShare string
	// nextSeq is the next number of dispatch of a task.
	nextSeq string
	// lock locks a name ($1, a text) until the transaction ends, lockShared together with others; empty where one transaction runs at a time.
	lock, lockShared string
}

var sqliteDialect = dialect{nextSeq: "(SELECT COALESCE(MAX(seq), 0) + 1 FROM task)"}

var postgresDialect = dialect{
	forUpdate: " FOR UPDATE", forUpdateFree: " FOR UPDATE SKIP LOCKED", forShare: " FOR SHARE", nextSeq: "nextval('task_seq')",
	lock:       "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))",
	lockShared: "SELECT pg_advisory_xact_lock_shared(hashtextextended($1, 0))",
}

// toPostgres are the words of SQLite that our texts have, and PostgreSQL's for the same. json_entries and json_member are functions of our own schema.
var toPostgres = strings.NewReplacer(
	"SELECT j.value FROM json_each(", `SELECT j.value COLLATE "C" FROM json_entries(`,
	"json_each(", "json_entries(",
	"json_extract(j.value, '$.", "json_member(j.value, '",
	"INSTR(", "STRPOS(",
	" REGEXP ", " ~ ",
	"x''", "''::bytea",
)

// references is the name of the lock between transactions that make something refer to content, which share it, and those that remove what nothing refers to.
const references = "countersign:references"

// lockRow locks a row of a table until the transaction ends, before it is read and written back with changes: a change that another transaction commits in between
// would be undone. A row that is not there is no error.
func (t *tx) lockRow(table, id string) error {
	if t.dialect.forUpdate == "" {
		return nil
	}
	_, err := t.exec(`SELECT 1 FROM `+table+` WHERE id = $1`+t.dialect.forUpdate, id)
	return err
}

// lockNamed locks a name until the transaction ends.
func (t *tx) lockNamed(name string) error { return t.runLock(t.dialect.lock, name) }

// refers announces that the transaction makes something refer to content: until it ends nothing is swept.
func (t *tx) refers() error { return t.runLock(t.dialect.lockShared, references) }

// sweeps waits until no transaction makes anything refer to content, and keeps others from it until this one ends.
func (t *tx) sweeps() error { return t.runLock(t.dialect.lock, references) }

func (t *tx) runLock(query, name string) error {
	if query == "" {
		return nil
	}
	_, err := t.exec(query, name)
	return err
}
