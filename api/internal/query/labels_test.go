package query

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSplitTerms(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		"a,b=c":    {"a", "b=c"},
		`a=x\,y,b`: {"a=x,y", "b"},
		`a=\d`:     {`a=\d`},
		`a\`:       {`a\`},
		"":         {""},
		",":        {"", ""},
	} {
		if diff := cmp.Diff(want, splitTerms(text)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
}

func TestLabelTermRefusesInvalidTerms(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "=x", "!", "!a=b", "!a~b", "a!b", "a)b=c", "ä"} {
		if _, err := labelTerm(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

// FuzzLabelSelect proves that every term has either a filter or an error.
func FuzzLabelSelect(f *testing.F) {
	for _, seed := range []string{"a", "a=b,!c", `a\,b~c`, "!", "a!=", "=,~"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, term := range splitTerms(text) {
			if filter, err := labelTerm(term); (filter == nil) == (err == nil) {
				t.Errorf("%q: filter %v, error %v", term, filter, err)
			}
		}
	})
}
