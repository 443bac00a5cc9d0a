package record

import (
	"fmt"
)

// heldIn is the condition that a row c of repository_content is in a version.
func InVersion(number string) string {
	return "c.version_added <= " + number + " AND (c.version_removed IS NULL OR c.version_removed > " + number + ")"
}

// before is the number of the version before another, -1 when that is the oldest.
func previousVersion(repositoryID, number string) string {
	return "(SELECT COALESCE(MAX(bv.number), -1) FROM repository_version bv WHERE bv.repository_id = " + repositoryID + " AND bv.number < " + number + ")"
}

// addedIn is the condition that a version brought a row c of repository_content.
func AddedIn(repositoryID, number string) string {
	return "c.version_added > " + previousVersion(repositoryID, number) + " AND " + InVersion(number)
}

// removedIn is the condition that a version took a row c of repository_content away.
func RemovedIn(repositoryID, number string) string {
	p := previousVersion(repositoryID, number)
	return "c.version_removed > " + p + " AND c.version_removed <= " + number + " AND c.version_added <= " + p
}

// latest is the version number that stands for "the latest" in membership queries.
const Latest = -1

// in returns the condition that a row c of repository_content is in version number $n of its repository; number may be latest.
func InServedVersion(number int64, placeholder string) string {
	if number == Latest {
		return `c.version_removed IS NULL AND ` + placeholder + ` = -1`
	}
	return fmt.Sprintf(`c.version_added <= %[1]s AND (c.version_removed IS NULL OR c.version_removed > %[1]s)`, placeholder)
}
