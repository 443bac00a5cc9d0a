package api

import (
	"regexp"
	"strings"
	"testing"
)

// pep440 is the regular expression of PEP 440, appendix B, without its named groups.
var pep440 = regexp.MustCompile(`^\s*(?i:v?(?:(?:[0-9]+)!)?(?:[0-9]+(?:\.[0-9]+)*)(?:[-_.]?(?:a|b|c|rc|alpha|beta|pre|preview)[-_.]?(?:[0-9]+)?)?` +
	`(?:(?:-(?:[0-9]+))|(?:[-_.]?(?:post|rev|r)[-_.]?(?:[0-9]+)?))?(?:[-_.]?(?:dev)[-_.]?(?:[0-9]+)?)?(?:\+(?:[a-z0-9]+(?:[-_.][a-z0-9]+)*))?)\s*$`)

// versions has the versions of builds in every state of git, and how clients see them.
var versions = map[string]string{
	"dev": "0.0.0.dev0", "": "0.0.0.dev0", "-": "0.0.0.dev0", "latest": "0.0.0.dev0+latest", "My Build_7": "0.0.0.dev0+my.build.7", "Straße": "0.0.0.dev0+stra.e",
	"fe8414d": "0.0.0.dev0+gfe8414d", "fe8414d-dirty": "0.0.0.dev0+gfe8414d.dirty", "1234567": "0.0.0.dev0+g1234567", "1234567-dirty": "0.0.0.dev0+g1234567.dirty",
	strings.Repeat("a", 40): "0.0.0.dev0+g" + strings.Repeat("a", 40),
	"v1.2.3":                "1.2.3", "1.2.3": "1.2.3", "V1.2.3": "1.2.3", "v1": "1", "v01.02": "1.2", "v1.2.3-dirty": "1.2.3+dirty",
	"v1.2.3-4-gabcdef0": "1.2.3.post4+gabcdef0", "v1.2.3-4-gabcdef0-dirty": "1.2.3.post4+gabcdef0.dirty", "v1.2.3-0-gabcdef0": "1.2.3.post0+gabcdef0",
	"v2.0.0-rc.1": "2.0.0rc1", "v2.0.0-rc1": "2.0.0rc1", "v2.0.0-beta": "2.0.0b0", "v2.0.0-alpha.2-7-g0123456-dirty": "2.0.0a2.post7+g0123456.dirty",
	"1.2.3.post4+gabc": "1.2.3.post4+gabc", "1.2.3.dev5": "1.2.3.dev5", "2!1.0": "2!1.0", "release-7": "0.0.0.dev0+release.7", "v1.2.3+build.5": "0.0.0.dev0+v1.2.3.build.5",
}

// TestVersionsConformToPEP440: pulp-cli parses the versions of status/ with Python's packaging library.
func TestVersionsConformToPEP440(t *testing.T) {
	t.Parallel()
	for build, want := range versions {
		got := pythonVersion(build)
		if got != want || !pep440.MatchString(got) {
			t.Errorf("%q is shown as %q, want %q; PEP 440: %t", build, got, want, pep440.MatchString(got))
		}
		if again := pythonVersion(got); again != got {
			t.Errorf("%q is shown as %q, and that as %q", build, got, again)
		}
	}
	if pep440.MatchString("fe8414d") || pep440.MatchString("v1.2.3-4-gabcdef0") {
		t.Error("the expression of PEP 440 takes what git says")
	}
}

// FuzzVersion looks for builds whose version clients cannot parse.
func FuzzVersion(f *testing.F) {
	for build := range versions {
		f.Add(build)
	}
	f.Fuzz(func(t *testing.T, build string) {
		if got := pythonVersion(build); !pep440.MatchString(got) {
			t.Errorf("%q is shown as %q", build, got)
		}
	})
}
