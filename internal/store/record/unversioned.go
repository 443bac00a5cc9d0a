package record

// Pending returns the condition that a row p of unversioned_content is of a pending unit of a repository. The argument is an SQL
// expression for the repository's id. The reason is a constant of the text, for the estimates of the planner.
func Pending(repositoryID string) string {
	return `p.repository_id = ` + repositoryID + ` AND p.reason = 'pending'`
}

// IsPending returns the condition that a unit of a kind is pending in a repository under a key. The arguments are SQL
// expressions.
func IsPending(repositoryID, kind, key string) string {
	return `EXISTS (SELECT 1 FROM unversioned_content p WHERE ` + Pending(repositoryID) + ` AND p.kind = ` + kind + ` AND p.key = ` + key + `)`
}

// Fetched returns the condition that a row f of unversioned_content is of a unit that was fetched for a repository. The argument
// is an SQL expression for the repository's id.
func Fetched(repositoryID string) string {
	return `f.repository_id = ` + repositoryID + ` AND f.reason = 'fetched'`
}
