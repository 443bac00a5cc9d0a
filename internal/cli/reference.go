package cli

import (
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
)

// reference is [HOST/]PATH, [HOST/]PATH:TAG or [HOST/]PATH@DIGEST.
type reference struct {
	host   string // HOST[:PORT]; may be empty
	path   string
	tag    string
	digest digest.Digest
}

// parseReference parses a reference. Its first component is a host if it contains a dot or a colon or is localhost, and
// another component follows.
func parseReference(text string) (reference, error) {
	var r reference
	wrong := func(form string) (reference, error) {
		return reference{}, usageError{fmt.Errorf("%q is no reference: want %s", text, form)}
	}
	name, dgst, hasDigest := strings.Cut(text, "@")
	if hasDigest {
		if r.digest = digest.Digest(dgst); r.digest.Validate() != nil {
			return wrong("[HOST/]PATH@sha256:…")
		}
	}
	if first, rest, ok := strings.Cut(name, "/"); ok && (strings.ContainsAny(first, ".:") || first == "localhost") {
		r.host, name = first, rest
	}
	path, tag, hasTag := strings.Cut(name, ":")
	switch {
	case hasTag && hasDigest:
		return wrong("a tag or a digest, not both")
	case hasTag && !pulp.ValidTag(tag), !pulp.ValidName(path):
		return wrong("[HOST/]PATH, [HOST/]PATH:TAG or [HOST/]PATH@DIGEST")
	}
	r.path, r.tag = path, tag
	return r, nil
}

// parseReferences parses references, which must be of one host.
func parseReferences(texts []string) ([]reference, error) {
	all := make([]reference, len(texts))
	for i, text := range texts {
		var err error
		if all[i], err = parseReference(text); err != nil {
			return nil, err
		}
		if all[i].host != all[0].host {
			return nil, usageError{fmt.Errorf("%s and %s are of different servers: call the command for each of them", texts[0], text)}
		}
	}
	return all, nil
}

// name returns the reference without the host.
func (r reference) name() string {
	switch {
	case r.tag != "":
		return r.path + ":" + r.tag
	case r.digest != "":
		return r.path + "@" + r.digest.String()
	}
	return r.path
}
