package policy

import (
	"errors"
	"regexp"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
)

// named is a complete docker reference.
type named struct {
	name   string // host[:port]/path
	tag    string // may be empty
	digest digest.Digest
}

// The grammar of docker references in podman and skopeo. github.com/distribution/reference differs: it accepts IPv6
// hosts and upper-case hosts without a dot, and limits the length of the path alone.
const (
	hostPart   = `(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])`
	hostForm   = hostPart + `(?:\.` + hostPart + `)*(?::[0-9]+)?`
	pathPart   = `[a-z0-9]+(?:(?:[._]|__|-*)[a-z0-9]+)*`
	pathForm   = pathPart + `(?:/` + pathPart + `)*`
	digestText = `[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[[:xdigit:]]{32,}`
	maxName    = 255 // bytes of host and path
)

var (
	referenceForm = regexp.MustCompile(`^((?:` + hostForm + `/)?` + pathForm + `)(?::(\w[\w.-]{0,127}))?(?:@(` + digestText + `))?$`)
	hostOnly      = regexp.MustCompile(`^` + hostForm + `$`)
	hostAndPath   = regexp.MustCompile(`^` + hostForm + `/` + pathForm + `$`)
	imageID       = regexp.MustCompile(`^[a-f0-9]{64}$`)
)

var errReference = errors.New("not a docker reference")

// parseNamed parses a docker reference. The default host is docker.io, and the default namespace there is library.
func parseNamed(s string) (named, error) {
	if imageID.MatchString(s) {
		return named{}, errReference
	}
	host, path, _ := strings.Cut(s, "/")
	if path == "" || !strings.ContainsAny(host, ".:") && host != "localhost" {
		host, path = "docker.io", s
	}
	if host == "index.docker.io" {
		host = "docker.io"
	}
	if host == "docker.io" && !strings.Contains(path, "/") {
		path = "library/" + path
	}
	parts := referenceForm.FindStringSubmatch(host + "/" + path)
	if parts == nil || len(parts[1]) > maxName {
		return named{}, errReference
	}
	n := named{name: parts[1], tag: parts[2], digest: digest.Digest(parts[3])}
	if n.digest != "" && n.digest.Validate() != nil {
		return named{}, errReference
	}
	return n, nil
}

// String returns the complete reference.
func (n named) String() string {
	s := n.name
	if n.tag != "" {
		s += ":" + n.tag
	}
	if n.digest != "" {
		s += "@" + string(n.digest)
	}
	return s
}

// bare reports whether the reference has neither a tag nor a digest.
func (n named) bare() bool { return n.tag == "" && n.digest == "" }

// parseImage parses the reference of a pull. It may have a tag or a digest; clients cannot pull references with both.
func parseImage(s string) (named, error) {
	n, err := parseNamed(s)
	if err == nil && n.tag != "" && n.digest != "" {
		err = errors.New("it has a tag and a digest, and clients support only one of them")
	}
	if err == nil && n.bare() {
		n.tag = "latest"
	}
	if err != nil {
		return named{}, fault.New(fault.Invalid, "%q is not the reference of an image: %s.", s, err)
	}
	return n, nil
}

// scopes returns the scopes of the transport docker that apply to an image, from the nearest to the farthest: the
// reference, its repository, namespaces and host, and wildcards of the host without its port.
func (n named) scopes() []string {
	scopes := []string{n.String()}
	name := n.name
	for {
		scopes = append(scopes, name)
		i := strings.LastIndex(name, "/")
		if i < 0 {
			break
		}
		name = name[:i]
	}
	host, _, _ := strings.Cut(name, ":")
	for {
		_, parent, ok := strings.Cut(host, ".")
		if !ok {
			return append(scopes, "")
		}
		scopes, host = append(scopes, "*."+parent), parent
	}
}
