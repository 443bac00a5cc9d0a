package adopt

import "testing"

func TestMatches(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"team/app", "team/app", true},
		{"team/app", "team/app2", false},
		{"*", "team/app", true},
		{"team/*", "team/app", true},
		{"team/*", "team/deep/app", true},
		{"team/*", "teams/app", false},
		{"*/app", "team/app", true},
		{"*/app", "team/apps", false},
		{"t*m/*pp", "team/app", true},
		{"a*a", "a", false},
		{"a*a", "aa", true},
		{"a*b*c", "a-b-c", true},
		{"a*b*c", "acb", false},
		{"*b*", "abc", true},
		{"**", "", true},
	} {
		if got := Matches(c.pattern, c.name); got != c.want {
			t.Errorf("Matches(%q, %q) = %t, want %t", c.pattern, c.name, got, c.want)
		}
	}
}
