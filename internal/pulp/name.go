package pulp

import (
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"
)

// MaxNameLength is how long a repository name or base path may be, in bytes (contract 2.7).
const MaxNameLength = 255

var (
	// The form of one segment is the OCI distribution specification's <name> (contract 2.7, the same language).
	nameForm = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagForm  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	// cosignSuffixed and cosignBare are the companion tags of cosign (contract, appendix A).
	cosignSuffixed = regexp.MustCompile(`\.(sig|att|sbom)$`)
	cosignStarted  = regexp.MustCompile(`^sha256-.*\.(?:sig|att|sbom)$`)
	cosignWhole    = regexp.MustCompile(`^sha256-[0-9a-f]{64}\.(?:sig|att|sbom)$`)
	cosignBare     = regexp.MustCompile(`^sha256-[0-9a-f]{64}$`)
	cosignOf       = regexp.MustCompile(`^sha256-([0-9a-f]{64})(?:\.[a-z]+)?$`)
)

// ValidName says whether s is a well-formed repository name (OCI distribution specification 1.1, "Pulling manifests").
func ValidName(s string) bool { return len(s) <= MaxNameLength && nameForm.MatchString(s) }

// ValidText says whether every database keeps s, and looks for it: it is UTF-8 without null characters.
func ValidText(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

// maxPrintable is how many bytes of a foreign name Printable keeps.
const maxPrintable = 255

// Printable returns a name that another registry chose, and that need not be well-formed, as reports and logs show it: its first 255 bytes, quoted in ASCII if it has
// control characters, quotes or characters beyond ASCII.
func Printable(name string) string {
	name = name[:min(len(name), maxPrintable)]
	if quoted := strconv.QuoteToASCII(name); quoted != `"`+name+`"` {
		return quoted
	}
	return name
}

// ValidTag says whether s is a well-formed tag (OCI distribution specification 1.1).
func ValidTag(s string) bool { return tagForm.MatchString(s) }

// NamespaceOf returns the first segment of a repository name.
func NamespaceOf(name string) string {
	namespace, _, _ := strings.Cut(name, "/")
	return namespace
}

// UpstreamName is the name under which a repository lies in an upstream registry: its own or, where no registry takes that as a name, one that is made of its id.
func UpstreamName(name, id string) string {
	if ValidName(name) {
		return name
	}
	return "countersign/" + id
}

// UpstreamName is the name under which the repository lies in an upstream registry.
func (r Repository) UpstreamName() string { return UpstreamName(r.Name, r.ID) }

// keepTagPrefix begins the tags that keep manifests alive in an upstream registry.
const keepTagPrefix = "countersign-keep."

// PinTag is the tag that keeps a manifest alive in an upstream registry.
func PinTag(d digest.Digest) string {
	hex := d.Encoded()
	return keepTagPrefix + string(d.Algorithm()) + "-" + hex[:min(len(hex), 64)] // a tag has at most 128 characters
}

// IsPinTag says whether a tag is one of those. No repository here has such a tag.
func IsPinTag(tag string) bool { return strings.HasPrefix(tag, keepTagPrefix) }

// IsCompanionTag says whether a tag is one under which cosign keeps signatures, attestations or SBOMs of another
// manifest. Such tags are never signed (contract 5.4 step 2, appendix A).
func IsCompanionTag(tag string) bool {
	return cosignSuffixed.MatchString(tag) || cosignBare.MatchString(tag)
}

// MalformedCompanionTag says whether a tag looks like a companion tag of cosign and names no manifest: nothing finds it, and it would never be signed.
func MalformedCompanionTag(tag string) bool {
	return cosignStarted.MatchString(tag) && !cosignWhole.MatchString(tag)
}

// CompanionOf returns the hexadecimal sha256 of the manifest that a companion tag of cosign belongs to. ok is false for other tags.
func CompanionOf(tag string) (hex string, ok bool) {
	m := cosignOf.FindStringSubmatch(tag)
	if m == nil {
		return "", false
	}
	return m[1], true
}
