package signing

import (
	"encoding/json"
	"errors"
	"math"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/strictjson"
)

// claimType is the type member of each claim.
const claimType = "atomic container signature"

// Limits of a claim.
const (
	maxClaim     = 64 << 10            // bytes
	maxReference = 1024                // bytes of a docker reference
	maxCreator   = 1024                // bytes of optional.creator
	maxDepth     = 32                  // of nested JSON values
	maxTime      = math.MaxInt32 * 100 // seconds
)

// referenceForm does not parse the reference: other programs write references without a host or a tag, or with a digest.
var (
	referenceForm = regexp.MustCompile(`^[\x21-\x7e]+$`)
	digestForm    = regexp.MustCompile(`^sha256:[0-9a-f]{64}$|^sha512:[0-9a-f]{128}$`)
)

// Reference returns the docker reference of a tag: host[:port]/base path:tag. Clients compare it with the reference
// that they pull (compatibility.md#docker-reference).
func Reference(host, basePath, tag string) string { return host + "/" + basePath + ":" + tag }

// claimText is the JSON encoding of a claim.
type claimText struct {
	Critical struct {
		Identity struct {
			DockerReference string `json:"docker-reference"`
		} `json:"identity"`
		Image struct {
			ManifestDigest digest.Digest `json:"docker-manifest-digest"`
		} `json:"image"`
		Type string `json:"type"`
	} `json:"critical"`
	Optional struct {
		Creator   string `json:"creator,omitempty"`
		Timestamp *int64 `json:"timestamp,omitempty"`
	} `json:"optional"`
}

// EncodeClaim returns the JSON encoding of a claim. The error is Invalid for claims that ParseClaim does not accept.
func EncodeClaim(c Claim) ([]byte, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	var text claimText
	text.Critical.Type = claimType
	text.Critical.Image.ManifestDigest, text.Critical.Identity.DockerReference = c.ManifestDigest, c.DockerReference
	text.Optional.Creator = c.Creator
	if !c.Timestamp.IsZero() {
		seconds := c.Timestamp.Unix()
		text.Optional.Timestamp = &seconds
	}
	return json.Marshal(text)
}

// check returns an Invalid error for a claim that may not be signed or stored.
func (c Claim) check() error {
	switch {
	case !digestForm.MatchString(string(c.ManifestDigest)):
		return malformed("the manifest's digest is not well-formed")
	case len(c.DockerReference) > maxReference || !referenceForm.MatchString(c.DockerReference):
		return malformed("the docker reference is not well-formed")
	case len(c.Creator) > maxCreator || !utf8.ValidString(c.Creator),
		strings.ContainsFunc(c.Creator, unicode.IsControl): // lists show it
		return malformed("the creator is too long or has control characters")
	case !c.Timestamp.IsZero() && (c.Timestamp.Unix() < 0 || c.Timestamp.Unix() > maxTime):
		return malformed("the timestamp is out of range")
	}
	return nil
}

// ParseClaim parses the payload of an atomic container signature (compatibility.md#signature-format). It accepts only
// JSON that all parsers read alike, and no unknown members outside of "optional". All errors are Invalid.
func ParseClaim(b []byte) (Claim, error) {
	if len(b) > maxClaim || !utf8.Valid(b) {
		return Claim{}, malformed("not UTF-8 of at most %d bytes", maxClaim)
	}
	value, err := parseValue(b)
	if err != nil {
		return Claim{}, err
	}
	p := claimReader{}
	top := p.object(value, "critical", "optional")
	critical := p.object(top["critical"], "type", "image", "identity")
	image := p.object(critical["image"], "docker-manifest-digest")
	identity := p.object(critical["identity"], "docker-reference")
	optional, ok := top["optional"].(map[string]any)
	if !ok {
		p.fail("optional is not an object")
	}
	if p.text(critical["type"]) != claimType {
		p.fail("the type is not %q", claimType)
	}
	c := Claim{ManifestDigest: digest.Digest(p.text(image["docker-manifest-digest"])), DockerReference: p.text(identity["docker-reference"])}
	if creator, there := optional["creator"]; there {
		c.Creator = p.text(creator)
	}
	if stamp, there := optional["timestamp"]; there {
		c.Timestamp = p.time(stamp)
	}
	if p.err != nil {
		return Claim{}, p.err
	}
	if err := c.check(); err != nil {
		return Claim{}, err
	}
	return c, nil
}

func malformed(format string, args ...any) *fault.Error {
	return fault.New(fault.Invalid, "The signature's payload is malformed: "+format+".", args...)
}

// parseValue decodes one JSON value. It rejects duplicate keys, which parsers treat differently, and deep nesting.
func parseValue(b []byte) (any, error) {
	err := strictjson.Walk(b, func(_ json.Token, depth int) error {
		if depth > maxDepth {
			return malformed("nested too deeply")
		}
		return nil
	})
	if duplicate, ok := errors.AsType[*strictjson.DuplicateKeyError](err); ok {
		return nil, malformed("the key %q occurs twice", duplicate.Key)
	}
	if _, ok := errors.AsType[*fault.Error](err); ok {
		return nil, err
	}
	if err != nil {
		return nil, malformed("%v", err)
	}
	var v any
	if err := strictjson.Decode(b, &v); err != nil {
		return nil, malformed("%v", strictjson.ErrSyntax)
	}
	return v, nil
}

// claimReader converts JSON values to the fields of a claim, and keeps the first error.
type claimReader struct{ err error }

func (p *claimReader) fail(format string, args ...any) {
	if p.err == nil {
		p.err = malformed(format, args...)
	}
}

// object returns the members of an object that has exactly the given names.
func (p *claimReader) object(v any, names ...string) map[string]any {
	object, ok := v.(map[string]any)
	if !ok {
		p.fail("an object is missing")
		return nil
	}
	for _, name := range names {
		if _, there := object[name]; !there {
			p.fail("%s is missing", name)
		}
	}
	if len(object) != len(names) {
		p.fail("there are unknown members besides %v", names)
	}
	return object
}

func (p *claimReader) text(v any) string {
	s, ok := v.(string)
	if !ok {
		p.fail("a string is missing")
	}
	return s
}

func (p *claimReader) time(v any) time.Time {
	n, ok := v.(json.Number)
	if !ok {
		p.fail("the timestamp is not a number")
		return time.Time{}
	}
	f, err := n.Float64()
	if err != nil || f < 0 || f > maxTime {
		p.fail("the timestamp is out of range")
		return time.Time{}
	}
	return time.Unix(int64(f), 0).UTC()
}
