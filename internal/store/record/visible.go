package record

// VisibleRepositories selects the ids of the repositories that a user without administrator rights sees; %s is the user's
// namespace.
const VisibleRepositories = `SELECT vr.id FROM repository vr WHERE vr.name = %s OR SUBSTR(vr.name, 1, LENGTH(%s) + 1) = %s || '/' OR EXISTS (
	SELECT 1 FROM distribution vd JOIN namespace vn ON vn.id = vd.namespace_id
	 WHERE vd.repository_id = vr.id AND (NOT vd.private OR vn.name = %s))`

// VisibleContent returns the condition that the unit with an id is in a version of a visible repository; %s is the user's
// namespace.
func VisibleContent(id string) string {
	return id + ` IN (SELECT vc.content_id FROM repository_content vc WHERE vc.repository_id IN (` + VisibleRepositories + `))`
}
