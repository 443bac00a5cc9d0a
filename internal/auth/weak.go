package auth

import (
	_ "embed"
	"regexp"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/pulp"
)

// minPassword is the length of the shortest password that PasswordFaults accepts, in characters.
const minPassword = 8

// maxSimilarity is the least similarity of a password to a name for which it is refused.
const maxSimilarity = 0.7

// common are common passwords in lower case, one a line: the 1,000 most common ones and about 3,500 longer ones.
//
//go:embed common-passwords.txt
var common string

var commonPasswords = sync.OnceValue(func() map[string]bool {
	all := map[string]bool{}
	for line := range strings.Lines(common) {
		all[strings.TrimSpace(line)] = true
	}
	return all
})

// PasswordFaults returns the reasons why a user may not choose a password, in the words of Pulp
// (compatibility.md#users-of-the-api): it is similar to a name of the user, short, common or numeric. It is empty for
// an acceptable password. HashPassword checks the greatest length.
func PasswordFaults(password string, u pulp.User) []string {
	var faults []string
	lower := strings.ToLower(password)
	for _, name := range []struct{ of, text string }{
		{"username", u.Username}, {"first name", u.FirstName}, {"last name", u.LastName}, {"email address", u.Email},
	} {
		if resembles(lower, strings.ToLower(name.text)) {
			faults = append(faults, "The password is too similar to the "+name.of+".")
			break
		}
	}
	if utf8.RuneCountInString(password) < minPassword {
		faults = append(faults, "This password is too short. It must contain at least 8 characters.")
	}
	if commonPasswords()[strings.TrimSpace(lower)] {
		faults = append(faults, "This password is too common.")
	}
	if password != "" && strings.IndexFunc(password, func(r rune) bool { return !unicode.IsDigit(r) }) < 0 {
		faults = append(faults, "This password is entirely numeric.")
	}
	return faults
}

var words = regexp.MustCompile(`[\pL\pN_]+`)

// resembles reports whether a password is similar to a name or to a word of it.
func resembles(password, name string) bool {
	for _, part := range append(words.FindAllString(name, -1), name) {
		if part != "" && similarity(password, part) >= maxSimilarity {
			return true
		}
	}
	return false
}

// similarity returns the share of characters that two texts have in common, whatever their order: from 0 to 1.
func similarity(a, b string) float64 {
	count := map[rune]int{}
	for _, r := range b {
		count[r]++
	}
	matches := 0
	for _, r := range a {
		if count[r] > 0 {
			count[r]--
			matches++
		}
	}
	return 2 * float64(matches) / float64(utf8.RuneCountInString(a)+utf8.RuneCountInString(b))
}
