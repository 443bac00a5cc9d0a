package list

import (
	"context"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/store/record"
)

// TokenList is the list of API tokens. The hash of the secret is no field: clients cannot filter or sort by it.
var TokenList = &List[access.APIToken]{
	columns: record.APITokenColumns, source: record.APITokenSource, id: "t.id", scan: record.ScanAPIToken,
	fields: with("t", map[string]string{
		"name": "t.name", "account": "u.username", "expires": "t.expires", "last_used": "t.last_used",
	}),
}

// APITokens lists API tokens.
func (s *Store) APITokens(ctx context.Context, q Query) ([]access.APIToken, int64, error) {
	return TokenList.Rows(ctx, s, q)
}

// TokensManagedBy restricts a list of API tokens to those of an account and those of the robots that the viewer, who has
// that account, may manage.
func TokensManagedBy(account int64, v *access.Viewer) Filter {
	return clause(func(b *statement) string {
		return "(t.account_id = " + b.arg(account) + " OR " + managedRobot(b, v) + ")"
	})
}

// RobotsManagedBy restricts a list of users to the robots of the namespaces whose roles the viewer may manage.
func RobotsManagedBy(v *access.Viewer) Filter {
	return clause(func(b *statement) string { return managedRobot(b, v) })
}

// managedRobot returns the condition that the account u is a robot of such a namespace.
func managedRobot(b *statement, v *access.Viewer) string {
	robot := "u.kind = 'robot'"
	if v == nil {
		return robot
	}
	return "(" + robot + " AND u.namespace_id IN (" + record.Permitted{Viewer: v, Arg: b.arg}.IDs(access.Namespace, access.ManageRoles) + "))"
}
