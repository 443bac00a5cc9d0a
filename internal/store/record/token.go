package record

import (
	"database/sql"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// The columns of an API token that ScanAPIToken reads, and the tables that they are from. The hash is not among them.
const (
	//nolint:gosec // the names of columns are no credentials
	APITokenColumns = `t.id, t.account_id, u.username, t.name, t.hint, t.patterns, t.actions, t.expires, t.last_used,
		t.created, t.updated`
	//nolint:gosec // neither are those of tables
	APITokenSource = ` FROM api_token t JOIN account u ON u.id = t.account_id`
)

// ScanAPIToken reads an API token.
func ScanAPIToken(row sqldb.Scanner) (access.APIToken, error) {
	var t access.APIToken
	var patterns, actions sql.NullString
	var expires, used sql.NullInt64
	var created, updated int64
	err := row.Scan(&t.ID, &t.AccountID, &t.Account, &t.Name, &t.Hint, &patterns, &actions, &expires, &used, &created, &updated)
	if err == nil && patterns.Valid {
		err = sqldb.FromJSON("patterns", patterns.String, &t.Patterns)
	}
	if err == nil && actions.Valid {
		err = sqldb.FromJSON("actions", actions.String, &t.Actions)
	}
	if err != nil {
		return access.APIToken{}, err
	}
	t.Expires, t.LastUsed, t.Stamps = sqldb.FromNullMicros(expires), sqldb.FromNullMicros(used), Stamps(created, updated)
	return t, nil
}
