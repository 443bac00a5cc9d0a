package api

import (
	"regexp"
	"strings"
)

// Forms of versions that a build may have: those that PEP 440 permits (appendix B, normalised here by Python's users), and what git describe says of
// a commit: the nearest tag, with the number of commits since and the commit's hash, or the hash alone; and -dirty for changes that are not committed.
var (
	release     = `(\d+(?:\.\d+)*)(?:[-_.]?(a|b|c|rc|alpha|beta|pre|preview)[-_.]?(\d*))?`
	described   = regexp.MustCompile(`^v?` + release + `(?:-(\d+)-g([0-9a-f]{4,64}))?(-dirty)?$`)
	commitHash  = regexp.MustCompile(`^([0-9a-f]{7,64})(-dirty)?$`)
	canonical   = regexp.MustCompile(`^(?:[1-9]\d*!)?(?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*))*(?:(?:a|b|rc)(?:0|[1-9]\d*))?(?:\.post(?:0|[1-9]\d*))?(?:\.dev(?:0|[1-9]\d*))?(?:\+[a-z0-9]+(?:\.[a-z0-9]+)*)?$`)
	notLocal    = regexp.MustCompile(`[^a-z0-9]+`)
	preReleases = map[string]string{"a": "a", "alpha": "a", "b": "b", "beta": "b", "c": "rc", "rc": "rc", "pre": "rc", "preview": "rc"}
)

const unreleased = "0.0.0.dev0"

// pythonVersion spells the version of a build as PEP 440 wants it, since Pulp's clients parse versions with Python's packaging library and fail on others. Builds
// without a release are development releases of 0.0.0; commits and local changes become the local part.
func pythonVersion(build string) string {
	build = strings.ToLower(strings.TrimSpace(build))
	isHash := commitHash.MatchString(build)
	if !isHash && canonical.MatchString(build) {
		return build
	}
	if parts := described.FindStringSubmatch(build); parts != nil && !isHash {
		return fromTag(parts)
	}
	if parts := commitHash.FindStringSubmatch(build); parts != nil {
		return unreleased + local("g"+parts[1], parts[2])
	}
	if build == "dev" {
		return unreleased
	}
	return unreleased + local(build)
}

// fromTag spells the parts of a described version: release, kind and number of a pre-release, commits since, hash, and changes.
func fromTag(parts []string) string {
	numbers := strings.Split(parts[1], ".")
	for i, n := range numbers {
		numbers[i] = integer(n)
	}
	version := strings.Join(numbers, ".")
	if kind := preReleases[parts[2]]; kind != "" {
		version += kind + integer(parts[3])
	}
	hash := ""
	if parts[4] != "" {
		version += ".post" + integer(parts[4])
		hash = "g" + parts[5]
	}
	return version + local(hash, parts[6])
}

// integer removes leading zeros.
func integer(digits string) string {
	if digits = strings.TrimLeft(digits, "0"); digits != "" {
		return digits
	}
	return "0"
}

// local returns the local part of a version, with its separator, of those of the labels that are not empty; nothing when all are.
func local(labels ...string) string {
	text := strings.Trim(notLocal.ReplaceAllString(strings.Join(labels, "."), "."), ".")
	if text == "" {
		return ""
	}
	return "+" + text
}
