package record

import (
	"database/sql"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// AuditColumns are the columns of audit_entry e that ScanAuditEntry reads. The account of the actor may be deleted.
const AuditColumns = `e.id, e.at, e.actor, (SELECT a.id FROM account a WHERE a.id = e.actor_id), e.actor_kind, e.identity, e.address, ` +
	`e.action, e.object, e.result, e.status, e.count, e.correlation, e.details`

// ScanAuditEntry reads an entry of the audit log.
func ScanAuditEntry(row sqldb.Scanner) (audit.Entry, error) {
	var e audit.Entry
	var at int64
	var account, status sql.NullInt64
	var details string
	err := row.Scan(&e.ID, &at, &e.Actor.Name, &account, (*string)(&e.Actor.Kind), &e.Actor.Identity, &e.Actor.Address,
		&e.Action, &e.Object, (*string)(&e.Result), &status, &e.Count, &e.Correlation, &details)
	if err != nil {
		return audit.Entry{}, err
	}
	e.At, e.Actor.ID, e.Status, e.Details = time.UnixMicro(at).UTC(), account.Int64, int(status.Int64), []byte(details)
	return e, nil
}
