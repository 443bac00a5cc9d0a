// Package pep440 spells the versions of builds in the form of PEP 440, which Python's packaging library can parse.
package pep440

import (
	"regexp"
	"strings"
)

// Forms of a build's version: a release of PEP 440 that git describe may have extended by the number of commits since
// the tag, the hash of the commit and -dirty; a hash alone; and a normalised public version with an optional local
// part.
var (
	release   = `(\d+(?:\.\d+)*)(?:[-_.]?(a|b|c|rc|alpha|beta|pre|preview)[-_.]?(\d*))?`
	described = regexp.MustCompile(`^v?` + release + `(?:-(\d+)-g([0-9a-f]{4,64}))?(-dirty)?$`)
	hash      = regexp.MustCompile(`^([0-9a-f]{7,64})(-dirty)?$`)
	canonical = regexp.MustCompile(`^(?:[1-9]\d*!)?(?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*))*(?:(?:a|b|rc)(?:0|[1-9]\d*))?` +
		`(?:\.post(?:0|[1-9]\d*))?(?:\.dev(?:0|[1-9]\d*))?(?:\+[a-z0-9]+(?:\.[a-z0-9]+)*)?$`)
	notLocal = regexp.MustCompile(`[^a-z0-9]+`)
)

// preReleases maps the spellings of pre-releases to the normal ones.
var preReleases = map[string]string{
	"a": "a", "alpha": "a", "b": "b", "beta": "b", "c": "rc", "rc": "rc", "pre": "rc", "preview": "rc",
}

// unreleased is the version of a build without a release.
const unreleased = "0.0.0.dev0"

// Version returns the version of a build in the normal form of PEP 440. A build without a release is a development
// release of 0.0.0. Commits since a release become a post-release; hashes and any other text become the local part.
func Version(build string) string {
	build = strings.ToLower(strings.TrimSpace(build))
	isHash := hash.MatchString(build)
	if !isHash && canonical.MatchString(build) {
		return build
	}
	if parts := described.FindStringSubmatch(build); parts != nil && !isHash {
		return fromTag(parts)
	}
	if parts := hash.FindStringSubmatch(build); parts != nil {
		return unreleased + local("g"+parts[1], parts[2])
	}
	if build == "dev" {
		return unreleased
	}
	return unreleased + local(build)
}

// fromTag returns the version for the parts that described matches: release, kind and number of the pre-release,
// commits since the tag, hash, and -dirty.
func fromTag(parts []string) string {
	numbers := strings.Split(parts[1], ".")
	for i, n := range numbers {
		numbers[i] = trimZeros(n)
	}
	version := strings.Join(numbers, ".")
	if kind := preReleases[parts[2]]; kind != "" {
		version += kind + trimZeros(parts[3])
	}
	commit := ""
	if parts[4] != "" {
		version += ".post" + trimZeros(parts[4])
		commit = "g" + parts[5]
	}
	return version + local(commit, parts[6])
}

// trimZeros removes leading zeros.
func trimZeros(digits string) string {
	if digits = strings.TrimLeft(digits, "0"); digits != "" {
		return digits
	}
	return "0"
}

// local joins labels to the local part of a version, with its separator. It returns "" when all labels are empty.
func local(labels ...string) string {
	text := strings.Trim(notLocal.ReplaceAllString(strings.Join(labels, "."), "."), ".")
	if text == "" {
		return ""
	}
	return "+" + text
}
