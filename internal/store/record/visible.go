package record

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/pulp"
)

// Permitted writes conditions on the objects on which a viewer has permissions. Arg adds an argument of the statement and
// returns its placeholder.
type Permitted struct {
	Viewer *access.Viewer
	Arg    func(any) string
}

// Args are the arguments of a statement whose first placeholders are taken.
type Args struct {
	Taken  int // number of placeholders before the first argument
	Values []any
}

// Add adds an argument and returns its placeholder.
func (a *Args) Add(v any) string {
	a.Values = append(a.Values, v)
	return fmt.Sprintf("$%d", a.Taken+len(a.Values))
}

// VisibleRepositories returns the query of the ids of the repositories that the viewer sees in lists: those that a public
// distribution serves, and those that the viewer has the permission to view.
func (p Permitted) VisibleRepositories() string {
	return PublicRepositories + `
		UNION ALL SELECT v.id FROM (` + p.IDs(access.Repository, access.View) + `) v`
}

// PublicRepositories is the query of the ids of the repositories that a public distribution serves.
const PublicRepositories = `SELECT d.repository_id FROM distribution d WHERE NOT d.private AND d.repository_id IS NOT NULL`

// SeesRepository returns the condition that a public distribution serves the repository with an id, or that the id is among
// those of the query own. It is checked row by row, and a planner cannot turn it into a join: lists read few rows in order.
func SeesRepository(id, own string) string {
	return `((SELECT 1 FROM distribution pd WHERE pd.repository_id = ` + id + ` AND NOT pd.private LIMIT 1) IS NOT NULL OR ` +
		id + ` IN (` + own + `))`
}

// SeesContent returns the condition that the unit with an id is in a version of a repository that satisfies a condition on
// vc.repository_id. It is checked row by row, like that of SeesRepository.
func SeesContent(id, repository string) string {
	return `(SELECT 1 FROM repository_content vc WHERE vc.content_id = ` + id + ` AND ` + repository + ` LIMIT 1) IS NOT NULL`
}

// table describes the table of a kind of objects.
type table struct {
	name      string
	path      string // column of the name that begins with the namespace; empty: none
	namespace string // column of the namespace's id; empty: path has its name
	number    bool   // whether the id is a number
}

var tables = map[access.Kind]table{
	access.Repository:     {name: "repository", path: "name"},
	access.Remote:         {name: "remote", path: "name"},
	access.Distribution:   {name: "distribution", path: "base_path", namespace: "namespace_id"},
	access.Namespace:      {name: "namespace", path: "name", namespace: "id"},
	access.Task:           {name: "task"},
	access.SigningService: {name: "signing_service", path: "name"},
	access.Group:          {name: "account_group", path: "name", number: true},
	access.Webhook:        {name: "webhook", path: "name"},

	access.PullThrough:       {name: "pull_through_distribution", path: "base_path", namespace: "namespace_id"},
	access.PullThroughRemote: {name: "pull_through_remote", path: "name"},
}

// The statements say CROSS JOIN where SQLite must look up the objects of the assignments, not the assignments for each
// object: it keeps the order of such joins.

// IDs returns the query of the ids of the objects of a kind on which the viewer's roles permit an action. The rows may
// repeat. Its cost depends on the viewer's assignments and on the objects found, not on all assignments.
func (p Permitted) IDs(kind access.Kind, action access.Action) string {
	q := scopeQuery{Permitted: p, Scope: p.Viewer.Scope(kind, action), kind: kind, of: tables[kind]}
	all := `SELECT o.id FROM ` + q.of.name + ` o`
	only := q.named(q.Only, q.Only != nil)
	switch {
	case q.None:
		return all + ` WHERE FALSE`
	case q.All && q.AllPush:
		return all + ` WHERE ` + only
	}
	account := q.Arg(q.Account)
	found := strings.Join(q.branches(), `
			UNION ALL `)
	if only != `TRUE` {
		found = `SELECT o.id FROM (` + found + `) g JOIN ` + q.of.name + ` o ON o.id = g.id WHERE ` + only
	}
	return `
		WITH assigned (object, permission) AS MATERIALIZED (
			SELECT a.object, p.permission FROM role_assignment a JOIN role_permission p ON p.role_id = a.role_id
			 WHERE a.account_id = ` + account + ` AND a.object > '' AND p.permission IN ` + q.permissions() + `
			UNION ALL
			SELECT a.object, p.permission FROM account_group_member m JOIN role_assignment a ON a.group_id = m.group_id
			  JOIN role_permission p ON p.role_id = a.role_id
			 WHERE m.account_id = ` + account + ` AND a.object > '' AND p.permission IN ` + q.permissions() + `)
		` + found
}

// scopeQuery writes the query of Permitted.IDs.
type scopeQuery struct {
	Permitted
	access.Scope
	kind access.Kind
	of   table
}

// permissions returns the set of the permissions that count for the scope.
func (q scopeQuery) permissions() string {
	r := q.Rule
	return oneOf(r.Object, r.PushObject, r.Namespace, r.PushNamespace, r.Serving, r.Cache)
}

// branches returns the queries of the ids, one for each way to get a permission.
func (q scopeQuery) branches() []string {
	r := q.Rule
	branches := []string{q.assignedOn(q.kind, `o.id = `+q.key(q.kind), r.Object, r.PushObject)}
	switch {
	case q.of.namespace != "":
		branches = append(branches, q.assignedOn(access.Namespace, `o.`+q.of.namespace+` = `+q.key(access.Namespace), r.Namespace, nil))
	case len(r.Namespace)+len(r.PushNamespace) > 0:
		branches = append(branches, q.inNamespaces())
	}
	if len(r.Serving) > 0 {
		branches = append(branches, `SELECT o.id FROM assigned x CROSS JOIN distribution d CROSS JOIN repository o
			 WHERE d.id = `+q.key(access.Distribution)+` AND o.id = d.repository_id AND `+q.on(access.Distribution)+` AND `+isPush+` AND x.permission IN `+oneOf(r.Serving))
	}
	if len(r.Cache) > 0 {
		branches = append(branches, q.cached()...)
	}
	if q.kind == access.Task {
		branches = append(branches, `SELECT o.id FROM task o WHERE o.created_by = `+q.Arg(q.Creator))
	}
	if q.kind == access.Repository {
		if q.All {
			branches = append(branches, `SELECT o.id FROM repository o WHERE NOT `+isPush)
		}
		if q.AllPush {
			branches = append(branches, `SELECT o.id FROM repository o WHERE `+isPush)
		}
		if len(q.GrantedPush) > 0 {
			branches = append(branches, `SELECT o.id FROM repository o WHERE `+isPush+` AND `+q.named(q.GrantedPush, true))
		}
	}
	if len(q.Granted) > 0 {
		branches = append(branches, `SELECT o.id FROM `+q.of.name+` o WHERE `+q.named(q.Granted, true))
	}
	return branches
}

// cached returns the queries of the distributions, or of their repositories, that pulls of pull-through caches have created.
func (q scopeQuery) cached() []string {
	from, id := `distribution o`, `o.pull_through_id`
	if q.kind == access.Repository {
		from, id = `distribution d CROSS JOIN repository o`, `o.id = d.repository_id AND d.pull_through_id`
	}
	branches := []string{`SELECT o.id FROM assigned x CROSS JOIN ` + from + ` WHERE ` + id + ` = ` + q.key(access.PullThrough) +
		` AND ` + q.on(access.PullThrough) + ` AND x.permission IN ` + oneOf(q.Rule.Cache)}
	if q.AllCached {
		branches = append(branches, `SELECT o.id FROM `+from+` WHERE `+id+` IS NOT NULL`)
	}
	return branches
}

const isPush = `o.type = '` + string(pulp.ContainerPush) + `'`

// assignedOn returns the query of the objects o that satisfy a condition on an assignment x to an object of a kind, which
// gives one of some permissions, or of those that count for push repositories only.
func (q scopeQuery) assignedOn(kind access.Kind, join string, permissions, push []access.Permission) string {
	condition := `x.permission IN ` + oneOf(permissions)
	if len(push) > 0 {
		condition = `(` + condition + ` OR ` + isPush + ` AND x.permission IN ` + oneOf(push) + `)`
	}
	return `SELECT o.id FROM assigned x CROSS JOIN ` + q.of.name + ` o WHERE ` + join + ` AND ` + q.on(kind) + ` AND ` + condition
}

// inNamespaces returns the query of the objects whose names are in a namespace with a permission.
// Each namespace is a range of the index on the names.
func (q scopeQuery) inNamespaces() string {
	r := q.Rule
	condition := `x.permission IN ` + oneOf(r.Namespace)
	if q.kind == access.Repository {
		condition = `CASE WHEN ` + isPush + ` THEN x.permission IN ` + oneOf(r.PushNamespace) + ` ELSE ` + condition + ` END`
	}
	namespaces := `SELECT n.name AS name, y.permission AS permission FROM assigned y CROSS JOIN namespace n WHERE n.id = ` +
		strings.ReplaceAll(q.key(access.Namespace)+` AND `+q.on(access.Namespace), "x.", "y.")
	return `SELECT o.id FROM (` + namespaces + `) x CROSS JOIN ` + q.of.name + ` o
			 WHERE o.` + q.of.path + ` >= x.name AND o.` + q.of.path + ` < x.name || '0'
			   AND SUBSTR(o.` + q.of.path + ` || '/', LENGTH(x.name) + 1, 1) = '/' AND ` + condition
}

// on returns the condition that the object of an assignment x is of a kind.
func (q scopeQuery) on(kind access.Kind) string {
	return `x.object > '` + string(kind) + `:' AND x.object < '` + string(kind) + `;'` // ';' follows ':'
}

// key returns the expression of the id of the object of an assignment x to an object of a kind.
func (q scopeQuery) key(kind access.Kind) string {
	key := fmt.Sprintf(`SUBSTR(x.object, %d)`, len(kind)+2)
	if tables[kind].number {
		return `CAST(` + key + ` AS BIGINT)`
	}
	return key
}

// named returns the condition that the name of an object o matches one of the patterns of glob.MatchName, if limited is
// set.
func (q scopeQuery) named(patterns []string, limited bool) string {
	switch {
	case !limited || q.of.path == "":
		return `TRUE`
	case len(patterns) == 0:
		return `FALSE`
	}
	expressions := make([]string, len(patterns))
	for i, pattern := range patterns {
		expressions[i] = strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, `.*`)
	}
	return `o.` + q.of.path + ` REGEXP ` + q.Arg(`(?s)^(?:`+strings.Join(expressions, `|`)+`)$`)
}

// oneOf returns the set of some permissions for IN.
func oneOf(lists ...[]access.Permission) string {
	var quoted []string
	for _, list := range lists {
		for _, p := range list {
			quoted = append(quoted, `'`+string(p)+`'`)
		}
	}
	if quoted == nil {
		return `('')`
	}
	return `(` + strings.Join(quoted, `, `) + `)`
}
