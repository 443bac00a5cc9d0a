package pep440

import (
	"regexp"
	"strings"
	"testing"
)

// pep440Form is the regular expression of PEP 440, appendix B, without its named groups.
var pep440Form = regexp.MustCompile(`^\s*(?i:v?(?:(?:[0-9]+)!)?(?:[0-9]+(?:\.[0-9]+)*)(?:[-_.]?(?:a|b|c|rc|alpha|beta|pre|preview)[-_.]?(?:[0-9]+)?)?` +
	`(?:(?:-(?:[0-9]+))|(?:[-_.]?(?:post|rev|r)[-_.]?(?:[0-9]+)?))?(?:[-_.]?(?:dev)[-_.]?(?:[0-9]+)?)?(?:\+(?:[a-z0-9]+(?:[-_.][a-z0-9]+)*))?)\s*$`)

// builds maps versions of builds, one for each form of git describe's output, to their versions in PEP 440.
var builds = map[string]string{
	"dev": "0.0.0.dev0", "": "0.0.0.dev0", "-": "0.0.0.dev0", "latest": "0.0.0.dev0+latest", "My Build_7": "0.0.0.dev0+my.build.7", "Straße": "0.0.0.dev0+stra.e",
	"fe8414d": "0.0.0.dev0+gfe8414d", "fe8414d-dirty": "0.0.0.dev0+gfe8414d.dirty", "1234567": "0.0.0.dev0+g1234567", "1234567-dirty": "0.0.0.dev0+g1234567.dirty",
	strings.Repeat("a", 40): "0.0.0.dev0+g" + strings.Repeat("a", 40),
	"v1.2.3":                "1.2.3", "1.2.3": "1.2.3", "V1.2.3": "1.2.3", "v1": "1", "v01.02": "1.2", "v1.2.3-dirty": "1.2.3+dirty",
	"v1.2.3-4-gabcdef0": "1.2.3.post4+gabcdef0", "v1.2.3-4-gabcdef0-dirty": "1.2.3.post4+gabcdef0.dirty", "v1.2.3-0-gabcdef0": "1.2.3.post0+gabcdef0",
	"v2.0.0-rc.1": "2.0.0rc1", "v2.0.0-rc1": "2.0.0rc1", "v2.0.0-beta": "2.0.0b0", "v2.0.0-alpha.2-7-g0123456-dirty": "2.0.0a2.post7+g0123456.dirty",
	"1.2.3.post4+gabc": "1.2.3.post4+gabc", "1.2.3.dev5": "1.2.3.dev5", "2!1.0": "2!1.0", "release-7": "0.0.0.dev0+release.7", "v1.2.3+build.5": "0.0.0.dev0+v1.2.3.build.5",
}

// TestVersionsConformToPEP440 compares the version of each build, and proves that Version leaves it as it is.
func TestVersionsConformToPEP440(t *testing.T) {
	t.Parallel()
	for build, want := range builds {
		got := Version(build)
		if got != want || !pep440Form.MatchString(got) {
			t.Errorf("Version(%q) = %q, want %q; conforms to PEP 440: %t", build, got, want, pep440Form.MatchString(got))
		}
		if again := Version(got); again != got {
			t.Errorf("Version(%q) = %q, want it unchanged", got, again)
		}
	}
	if pep440Form.MatchString("fe8414d") || pep440Form.MatchString("v1.2.3-4-gabcdef0") {
		t.Error("the expression of PEP 440 matches output of git describe")
	}
}

// FuzzVersion proves that every version conforms to PEP 440.
func FuzzVersion(f *testing.F) {
	for build := range builds {
		f.Add(build)
	}
	f.Fuzz(func(t *testing.T, build string) {
		if got := Version(build); !pep440Form.MatchString(got) {
			t.Errorf("Version(%q) = %q, which does not conform to PEP 440", build, got)
		}
	})
}
