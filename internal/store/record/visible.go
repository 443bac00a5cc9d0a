package record

// visibleRepositories selects the ids of the repositories that a user who is not staff sees; %s is their namespace.
const VisibleRepositories = `SELECT vr.id FROM repository vr WHERE vr.name = %s OR SUBSTR(vr.name, 1, LENGTH(%s) + 1) = %s || '/' OR EXISTS (
	SELECT 1 FROM distribution vd JOIN namespace vn ON vn.id = vd.namespace_id
	 WHERE vd.repository_id = vr.id AND (NOT vd.private OR vn.name = %s))`

// visibleContent selects the ids of the units of a kind in any version of a visible repository.
func VisibleContent(id string) string {
	return id + ` IN (SELECT vc.content_id FROM repository_content vc WHERE vc.repository_id IN (` + VisibleRepositories + `))`
}
