package record

import (
	"fmt"
)

// InVersion returns the condition that the unit of a row c of repository_content is in the version with a number. number is an
// expression.
func InVersion(number string) string {
	return "c.version_added <= " + number + " AND (c.version_removed IS NULL OR c.version_removed > " + number + ")"
}

// previousVersion returns the expression for the number of the version before another, -1 for the oldest.
func previousVersion(repositoryID, number string) string {
	return "(SELECT COALESCE(MAX(bv.number), -1) FROM repository_version bv WHERE bv.repository_id = " + repositoryID + " AND bv.number < " + number + ")"
}

// AddedIn returns the condition that a version added the unit of a row c of repository_content. The arguments are expressions.
func AddedIn(repositoryID, number string) string {
	return "c.version_added > " + previousVersion(repositoryID, number) + " AND " + InVersion(number)
}

// RemovedIn returns the condition that a version removed the unit of a row c of repository_content. The arguments are expressions.
func RemovedIn(repositoryID, number string) string {
	p := previousVersion(repositoryID, number)
	return "c.version_removed > " + p + " AND c.version_removed <= " + number + " AND c.version_added <= " + p
}

// Latest is the number that stands for the latest version in InServedVersion.
const Latest = -1

// InServedVersion returns the condition that the unit of a row c of repository_content is in a version of its repository; number
// may be Latest. placeholder stands for the number among the arguments.
func InServedVersion(number int64, placeholder string) string {
	if number == Latest {
		return `c.version_removed IS NULL AND ` + placeholder + ` = -1`
	}
	return fmt.Sprintf(`c.version_added <= %[1]s AND (c.version_removed IS NULL OR c.version_removed > %[1]s)`, placeholder)
}
