package accounts

import (
	"context"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// granted selects the objects of access.Keys, each with its relation to the object that a caller acts on, and the
// permissions that the account $1 and its groups have there. The permissions on all objects count for the pull-through
// distributions that created an object, too. A namespace without permissions has one row with an empty permission.
const granted = `
	WITH cache (id) AS (
		SELECT d.pull_through_id FROM distribution d WHERE d.base_path = $3 AND d.pull_through_id IS NOT NULL
		UNION SELECT d.pull_through_id FROM distribution d WHERE d.id = $6 AND d.pull_through_id IS NOT NULL
		UNION SELECT d.pull_through_id FROM distribution d WHERE d.repository_id = $6 AND d.pull_through_id IS NOT NULL),
	target (object, relation) AS (
		SELECT '', 'everywhere'
		UNION ALL SELECT 'namespace:' || n.id, 'namespace' FROM namespace n WHERE n.name = $2
		UNION ALL SELECT 'distribution:' || d.id, 'object' FROM distribution d WHERE d.base_path = $3
		UNION ALL SELECT 'distribution:' || d.id, 'serving' FROM distribution d WHERE d.repository_id = $4
		UNION ALL SELECT j.value, 'object' FROM json_each($5) j
		UNION ALL SELECT 'pull_through_distribution:' || c.id, 'cache' FROM cache c
		UNION ALL SELECT '', 'cache' FROM cache c)
	SELECT t.relation, p.permission FROM target t
	  JOIN role_assignment a ON a.object = t.object AND a.account_id = $1
	  JOIN role_permission p ON p.role_id = a.role_id
	UNION ALL
	SELECT t.relation, p.permission FROM target t
	  JOIN account_group_member m ON m.account_id = $1
	  JOIN role_assignment a ON a.object = t.object AND a.group_id = m.group_id
	  JOIN role_permission p ON p.role_id = a.role_id
	UNION ALL
	SELECT t.relation, '' FROM target t WHERE t.relation = 'namespace'`

// NewDecider returns a decider over the store, whose cache ends with each change that this process makes. rules may be
// nil. Call it before the store is used.
func (s *Store) NewDecider(rules access.RuleGrants) *access.Decider {
	d := access.NewDecider(s, rules)
	s.OnChange(d.Purge)
	return d
}

// Granted implements access.Grants.
func (s *Store) Granted(ctx context.Context, accountID int64, keys access.Keys) (access.Granted, bool, error) {
	type row struct{ relation, permission string }
	scan := func(r sqldb.Scanner) (v row, err error) {
		err = r.Scan(&v.relation, &v.permission)
		return v, err
	}
	rows, err := sqldb.Collect(ctx, s.db.Read(), scan, granted,
		accountID, keys.Namespace, keys.BasePath, keys.Repository, sqldb.ToJSON(append([]string{}, keys.Objects...)), keys.Cached)
	if err != nil {
		return access.Granted{}, false, err
	}
	var g access.Granted
	namespaceExists := false
	for _, r := range rows {
		has := access.SetOf(access.Permission(r.permission))
		switch r.relation {
		case "everywhere":
			g.Everywhere = g.Everywhere.Or(has)
		case "namespace":
			g.Namespace, namespaceExists = g.Namespace.Or(has), true
		case "object":
			g.Object = g.Object.Or(has)
		case "serving":
			g.Serving = g.Serving.Or(has)
		case "cache":
			g.Cache = g.Cache.Or(has)
		}
	}
	return g, namespaceExists, nil
}
