package glob_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/glob"
)

func TestMatchName(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		pattern, name string
		want          bool
	}{
		{"team/app", "team/app", true},
		{"team/app", "team/app2", false},
		{"*", "team/app", true},
		{"team/*", "team/app", true},
		{"team/*", "team/deep/app", true},
		{"team/*", "teams/app", false},
		{"team*", "team", true},
		{"*/app", "team/app", true},
		{"*/app", "team/apps", false},
		{"t*m/*pp", "team/app", true},
		{"a*a", "a", false},
		{"a*a", "aa", true},
		{"a*b*c", "a-b-c", true},
		{"a*b*c", "acb", false},
		{"*b*", "abc", true},
		{"**", "", true},
		{"", "", true},
		{"", "a", false},
		{"ap?", "app", false},
		{"ap?", "ap?", true},
		{"[ab]", "a", false},
		{"[ab", "[ab", true},
		{`a\*`, `a\b`, true},
		{`a\*`, "a*", false},
	} {
		if got := glob.MatchName(tt.pattern, tt.name); got != tt.want {
			t.Errorf("MatchName(%q, %q) = %t, want %t", tt.pattern, tt.name, got, tt.want)
		}
	}
}

func TestMatchTag(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		pattern, tag string
		want         bool
	}{
		{"v1", "v1", true},
		{"v1", "v1.0", false},
		{"v*", "v1.0", true},
		{"v?", "v1", true},
		{"v?", "v10", false},
		{"v[0-9]", "v1", true},
		{"v[!0-9]", "v1", false},
		{"v[!0-9]", "vx", true},
		{"v[^0-9]", "vx", true},
		{"v[0-9", "v1", false},
		{"v[0-9", "v[0-9", true}, // malformed
		{"*[", "v1", false},
	} {
		if got := glob.MatchTag(tt.pattern, tt.tag); got != tt.want {
			t.Errorf("MatchTag(%q, %q) = %t, want %t", tt.pattern, tt.tag, got, tt.want)
		}
	}
}

// FuzzMatchName compares MatchName with a regular expression.
func FuzzMatchName(f *testing.F) {
	for _, pattern := range []string{"team/*", "*", "a*b*c", `\*[?]`, "a/b", "**/x"} {
		f.Add(pattern, "team/app")
		f.Add(pattern, pattern)
	}
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if strings.Contains(pattern+name, "\x00") {
			t.Skip("no name contains a NUL")
		}
		expression, err := regexp.Compile(`(?s)\A` + strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, ".*") + `\z`)
		if err != nil {
			t.Skip("not UTF-8")
		}
		if strings.Contains(pattern, `\`) {
			return // the quoted pattern cannot tell \* from a quoted *
		}
		if got, want := glob.MatchName(pattern, name), expression.MatchString(name); got != want {
			t.Errorf("MatchName(%q, %q) = %v, want %v", pattern, name, got, want)
		}
	})
}
