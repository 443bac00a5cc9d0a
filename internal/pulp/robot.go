package pulp

import (
	"regexp"
	"strings"
)

// RobotSeparator is between the namespace and the short name in the name of a robot. It is in no name of a namespace.
const RobotSeparator = "+"

var robotForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// ValidRobotName reports whether a robot can have a short name, which is unique in its namespace.
func ValidRobotName(short string) bool { return robotForm.MatchString(short) }

// IsRobotName reports whether a name has the form of the name of a robot: NAMESPACE+NAME. Users cannot have such names.
func IsRobotName(name string) bool {
	namespace, short, found := strings.Cut(name, RobotSeparator)
	return found && !strings.Contains(namespace, "/") && ValidName(namespace) && ValidRobotName(short)
}
