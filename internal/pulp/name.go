package pulp

import (
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"
)

// MaxNameLength is the length limit of a repository name or base path in bytes. See compatibility.md#distributions.
const MaxNameLength = 255

var (
	// nameForm is the grammar of <name> in the OCI distribution specification.
	nameForm = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagForm  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	// The companion tags of cosign. See compatibility.md#constants.
	cosignSuffixed = regexp.MustCompile(`\.(sig|att|sbom)$`)
	cosignStarted  = regexp.MustCompile(`^sha256-.*\.(?:sig|att|sbom)$`)
	cosignWhole    = regexp.MustCompile(`^sha256-[0-9a-f]{64}\.(?:sig|att|sbom)$`)
	cosignBare     = regexp.MustCompile(`^sha256-[0-9a-f]{64}$`)
	cosignOf       = regexp.MustCompile(`^sha256-([0-9a-f]{64})(?:\.[a-z]+)?$`)
)

// ValidName reports whether s is a valid repository name (OCI distribution specification 1.1, "Pulling manifests").
func ValidName(s string) bool { return len(s) <= MaxNameLength && nameForm.MatchString(s) }

// ValidText reports whether both databases can store and compare s: it is UTF-8 without NUL.
func ValidText(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

// maxPrintable is the length limit of the input of Printable in bytes.
const maxPrintable = 255

// Printable returns an untrusted name for reports and logs: its first 255 bytes, quoted in ASCII if they contain
// control characters, quotes or characters outside ASCII.
func Printable(name string) string {
	name = name[:min(len(name), maxPrintable)]
	if quoted := strconv.QuoteToASCII(name); quoted != `"`+name+`"` {
		return quoted
	}
	return name
}

// ValidTag reports whether s is a valid tag (OCI distribution specification 1.1). PushableTag is stricter.
func ValidTag(s string) bool { return tagForm.MatchString(s) }

// PushableTag reports whether clients may create a tag, on the registry API or over REST: it is valid, not a malformed
// companion tag of cosign (compatibility.md#pending-content), and not a pin tag.
func PushableTag(s string) bool { return ValidTag(s) && !MalformedCompanionTag(s) && !IsPinTag(s) }

// NamespaceOf returns the first segment of a repository name.
func NamespaceOf(name string) string {
	namespace, _, _ := strings.Cut(name, "/")
	return namespace
}

// UpstreamName returns the name of a repository in an upstream registry: its own name or, if registries do not accept
// that, one derived from its id.
func UpstreamName(name, id string) string {
	if ValidName(name) {
		return name
	}
	return "countersign/" + id
}

// UpstreamName returns the name of the repository in an upstream registry.
func (r Repository) UpstreamName() string { return UpstreamName(r.Name, r.ID) }

// pinTagPrefix is the prefix of pin tags. They protect untagged manifests from the garbage collection of an upstream
// registry.
const pinTagPrefix = "countersign-keep."

// PinTag returns the pin tag of a manifest.
func PinTag(d digest.Digest) string {
	hex := d.Encoded()
	return pinTagPrefix + string(d.Algorithm()) + "-" + hex[:min(len(hex), 64)] // a tag has at most 128 characters
}

// IsPinTag reports whether a tag is a pin tag. Repositories of this server never contain one.
func IsPinTag(tag string) bool { return strings.HasPrefix(tag, pinTagPrefix) }

// IsCompanionTag reports whether a tag is exempt from signing because its name is one of cosign's: any name with the
// suffix .sig, .att or .sbom, whatever precedes it, and sha256- with 64 hexadecimal digits (compatibility.md#signing).
// This is Pulp's rule, and wider than that of CompanionOf: x.sig is exempt from signing, and belongs to no manifest.
func IsCompanionTag(tag string) bool {
	return cosignSuffixed.MatchString(tag) || cosignBare.MatchString(tag)
}

// MalformedCompanionTag reports whether a tag has the form of a companion tag but no valid digest. cosign never reads
// such a tag, and it would never be signed.
func MalformedCompanionTag(tag string) bool {
	return cosignStarted.MatchString(tag) && !cosignWhole.MatchString(tag)
}

// CompanionOf returns the hexadecimal sha256 of the manifest that a well-formed companion tag belongs to: sha256- with
// 64 hexadecimal digits, alone (cosign 3, and the fallback tag of referrers) or with a suffix of lower-case letters. A
// sync copies such a tag with its manifest. ok is false for all other tags. See IsCompanionTag for the tags that are
// not signed.
func CompanionOf(tag string) (hex string, ok bool) {
	m := cosignOf.FindStringSubmatch(tag)
	if m == nil {
		return "", false
	}
	return m[1], true
}
