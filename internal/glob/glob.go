// Package glob matches names against the patterns of settings and requests. There are two dialects because Pulp defines
// the patterns for tags:
//
//   - MatchName, for repository names (signing.on_push, signing.assign, adopt, drift): * matches any characters,
//     including slashes. Every other character matches itself.
//   - MatchTag, for the tags of a remote (includes, excludes): the shell patterns of Pulp, with *, ? and [set].
//
// MatchRepository, for the names of a pull-through remote, is a form of the latter. All use path.Match.
package glob

import (
	"path"
	"strings"
)

// slash replaces "/" in names and their patterns, since path.Match lets no * match a "/". It occurs in no valid name.
const slash = "\x00"

var escapeName = strings.NewReplacer("/", slash, `\`, `\\`, "?", `\?`, "[", `\[`)

// MatchName reports whether the pattern matches the whole repository name.
func MatchName(pattern, name string) bool {
	matched, err := path.Match(escapeName.Replace(pattern), strings.ReplaceAll(name, "/", slash))
	return matched && err == nil
}

// MatchRepository reports whether the shell pattern of Pulp matches the whole repository name. Unlike in MatchTag, * and ?
// match slashes, too.
func MatchRepository(pattern, name string) bool {
	return MatchTag(strings.ReplaceAll(pattern, "/", slash), strings.ReplaceAll(name, "/", slash))
}

// MatchTag reports whether the pattern matches the whole tag. A set may begin with ! or ^ to negate it. A malformed
// pattern matches only the tag that is equal to it.
func MatchTag(pattern, tag string) bool {
	matched, err := path.Match(strings.ReplaceAll(pattern, "[!", "[^"), tag)
	if err != nil {
		return pattern == tag
	}
	return matched
}
