package identity

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// Limits of the files.
const (
	maxFile      = 8 << 20 // bytes
	maxRefusals  = 20      // entries that are reported one by one
	maxGroupName = 150     // bytes
)

// hashForm is a bcrypt hash with a cost of 4 to 14. A comparison with cost 14 takes about a second; higher costs would
// let each login attempt occupy a processor for longer.
var hashForm = regexp.MustCompile(`^\$2[aby]\$(?:0[4-9]|1[0-4])\$[./A-Za-z0-9]{53}$`)

// refusal is a line of a file that has no effect. It contains no part of the line except a valid name.
type refusal struct {
	line   int // from 1
	reason string
}

// parseHashes parses the lines NAME:HASH of an htpasswd file. Empty lines and lines that begin with # have no effect.
// The first line of a name counts, as in Apache.
func parseHashes(raw []byte) (hashes map[string]string, refused []refusal) {
	hashes = map[string]string{}
	for number, line := range lines(raw) {
		refuse := func(format string, args ...any) {
			refused = append(refused, refusal{line: number, reason: fmt.Sprintf(format, args...)})
		}
		name, rest, found := strings.Cut(line, ":")
		hash, _, _ := strings.Cut(rest, ":") // further fields are comments
		_, repeated := hashes[name]
		switch {
		case !found:
			refuse("want NAME:HASH")
		case !ValidName(name):
			refuse("a name has 1 to %d letters, digits and @.+-_", maxName)
		case !hashForm.MatchString(hash):
			refuse("the hash of %s is not bcrypt with a cost of 4 to 14: make it with htpasswd -B", name)
		case repeated:
			refuse("a line above has the name %s too", name)
		default:
			hashes[name] = hash
		}
	}
	return hashes, refused
}

// parseGroups parses the lines GROUP: NAME NAME … of a group file of Apache and returns the groups of each name.
// Several lines of one group add up.
func parseGroups(raw []byte) (groups map[string][]string, refused []refusal) {
	groups = map[string][]string{}
	for number, line := range lines(raw) {
		group, members, found := strings.Cut(line, ":")
		group = strings.TrimSpace(group)
		if !found || !validGroup(group) {
			refused = append(refused, refusal{line: number, reason: "want GROUP: NAME NAME …"})
			continue
		}
		for _, member := range strings.Fields(members) {
			if ValidName(member) && !slices.Contains(groups[member], group) {
				groups[member] = append(groups[member], group)
			}
		}
	}
	for _, of := range groups {
		slices.Sort(of)
	}
	return groups, refused
}

// validGroup reports whether a group of this server may have a name.
func validGroup(name string) bool {
	return name != "" && len(name) <= maxGroupName && text(name) == name
}

// lines returns the lines of a file with an effect by their numbers from 1, in order.
func lines(raw []byte) func(yield func(int, string) bool) {
	return func(yield func(int, string) bool) {
		number := 0
		for line := range strings.Lines(strings.TrimPrefix(string(raw), "\ufeff")) {
			number++
			line = strings.TrimRight(line, "\r\n")
			if strings.TrimSpace(line) == "" || strings.HasPrefix(line, "#") {
				continue
			}
			if !utf8.ValidString(line) {
				line = "" // refused by every format
			}
			if !yield(number, line) {
				return
			}
		}
	}
}
