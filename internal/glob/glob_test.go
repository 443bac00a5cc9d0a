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
		{pattern: "team/app", name: "team/app", want: true},
		{pattern: "team/app", name: "team/app2"},
		{pattern: "*", name: "team/app", want: true},
		{pattern: "team/*", name: "team/app", want: true},
		{pattern: "team/*", name: "team/deep/app", want: true},
		{pattern: "team/*", name: "teams/app"},
		{pattern: "team*", name: "team", want: true},
		{pattern: "*/app", name: "team/app", want: true},
		{pattern: "*/app", name: "team/apps"},
		{pattern: "t*m/*pp", name: "team/app", want: true},
		{pattern: "a*a", name: "a"},
		{pattern: "a*a", name: "aa", want: true},
		{pattern: "a*b*c", name: "a-b-c", want: true},
		{pattern: "a*b*c", name: "acb"},
		{pattern: "*b*", name: "abc", want: true},
		{pattern: "**", want: true},
		{want: true},
		{name: "a"},
		{pattern: "ap?", name: "app"},
		{pattern: "ap?", name: "ap?", want: true},
		{pattern: "[ab]", name: "a"},
		{pattern: "[ab", name: "[ab", want: true},
		{pattern: `a\*`, name: `a\b`, want: true},
		{pattern: `a\*`, name: "a*"},
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
		{pattern: "v1", tag: "v1", want: true},
		{pattern: "v1", tag: "v1.0"},
		{pattern: "v*", tag: "v1.0", want: true},
		{pattern: "v?", tag: "v1", want: true},
		{pattern: "v?", tag: "v10"},
		{pattern: "v[0-9]", tag: "v1", want: true},
		{pattern: "v[!0-9]", tag: "v1"},
		{pattern: "v[!0-9]", tag: "vx", want: true},
		{pattern: "v[^0-9]", tag: "vx", want: true},
		{pattern: "v[0-9", tag: "v1"},
		{pattern: "v[0-9", tag: "v[0-9", want: true}, // malformed
		{pattern: "*[", tag: "v1"},
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
