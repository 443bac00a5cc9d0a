package registryclient

import (
	"net/http"
	"net/url"
	"testing"
)

const firstPage = "https://registry.example.com/v2/a/tags/list?n=1000"

// TestNextPage proves that only the query of a link counts, and that a link to another path is an error.
func TestNextPage(t *testing.T) {
	t.Parallel()
	at, err := url.Parse(firstPage)
	if err != nil {
		t.Fatal(err)
	}
	const refused = "refused"
	for link, want := range map[string]string{
		"":                                     "", // the last page
		`</v2/a/tags/list?last=b>; rel="prev"`: "",
		`<?last=b>; rel=nextish`:               "",
		`</v2/a/tags/list?n=1&last=b>; rel="next"`:                          "n=1&last=b",
		`<?last=c>; title="x"; rel=next`:                                    "last=c",
		`</v2/a/tags/list?last=a>; rel="prev", <?last=c>; rel="NEXT"`:       "last=c",
		`<http://inner:5000/v2/a/tags/list?last=b>; rel="next"`:             "last=b", // behind a proxy
		`<https://u:p@registry.example.com/v2/a/tags/list?last=b>;rel=next`: "last=b",
		`</v2/b/tags/list?last=b>; rel="next"`:                              refused,
		`<../../../secret>; rel="next"`:                                     refused,
		`<https://evil.test/>; rel="next"`:                                  refused,
		`<%zz>; rel=next`:                                                   refused,
	} {
		next, err := NextPage(at, http.Header{"Link": {link}})
		switch {
		case want == refused:
			if err == nil {
				t.Errorf("NextPage with %s = %v, want an error", link, next)
			}
		case err != nil || (next == nil) != (want == ""):
			t.Errorf("NextPage with %s = %v, %v", link, next, err)
		case next != nil && next.String() != "https://registry.example.com/v2/a/tags/list?"+want:
			t.Errorf("NextPage with %s = %v, want %s", link, next, want)
		}
	}
}

// FuzzNextPage proves that no Link header leads to another host or path.
func FuzzNextPage(f *testing.F) {
	for _, seed := range [][2]string{
		{`</v2/a/tags/list?n=1&last=b>; rel="next"`, ""},
		{`</v2/a/tags/list>; rel="prev"`, `<?last=c>; rel=next`},
		{`<https://evil.test/v2/a/tags/list>; rel="next"`, ""},
		{`<//evil.test/v2/a/tags/list>;rel="next"`, `<>;;;,,,; rel="next"`},
		{`<http://u:p@registry.example.com/v2/a/tags/list>; rel=next`, `<%zz>; rel=next`},
		{`<../../../secret>; rel="NEXT"`, ""},
	} {
		f.Add(seed[0], seed[1])
	}
	at, err := url.Parse(firstPage)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, first, second string) {
		next, err := NextPage(at, http.Header{"Link": {first, second}})
		if err == nil && next != nil && (!SameHost(next, at) || next.Path != at.Path || next.User != nil || next.Fragment != "") {
			t.Errorf("NextPage with %q and %q = %s", first, second, next)
		}
	})
}
