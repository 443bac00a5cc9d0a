package proxy

import (
	"net/http"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// This file implements conditional requests (RFC 9110, section 13). The entity tag of a manifest is its digest in
// quotes. So a client can require that a tag still has a known digest when it moves the tag.

// entityTags is the value of If-Match or If-None-Match.
type entityTags struct {
	any  bool // *
	tags []entityTag
}

type entityTag struct {
	value string
	weak  bool
}

// parseEntityTags parses the values of a header. Quotes are optional, since no digest contains a comma. An item that
// is not an entity tag matches nothing.
func parseEntityTags(headers []string) entityTags {
	var e entityTags
	for _, h := range headers {
		for item := range strings.SplitSeq(h, ",") {
			item = strings.TrimSpace(item)
			if item == "*" {
				e.any = true
				continue
			}
			value, weak := strings.CutPrefix(item, "W/")
			e.tags = append(e.tags, entityTag{strings.Trim(value, `"`), weak})
		}
	}
	return e
}

// match reports whether the tags include a digest. An empty digest means that the manifest does not exist. A strong
// comparison ignores weak tags.
func (e entityTags) match(d digest.Digest, strong bool) bool {
	if d == "" {
		return false
	}
	return e.any ||
		slices.ContainsFunc(e.tags, func(t entityTag) bool { return t.value == string(d) && !(strong && t.weak) })
}

// parsePrecondition returns the precondition of a request, which is a predicate on the current digest of a tag ("" if
// the tag does not exist). It returns nil if the request has none.
func parsePrecondition(h http.Header) func(current digest.Digest) bool {
	match, matchSet := h["If-Match"]
	none, noneSet := h["If-None-Match"]
	if !matchSet && !noneSet {
		return nil
	}
	wanted, unwanted := parseEntityTags(match), parseEntityTags(none)
	return func(current digest.Digest) bool {
		return (!matchSet || wanted.match(current, true)) && (!noneSet || !unwanted.match(current, false))
	}
}

// notModified reports whether the response to a GET or HEAD of a manifest with this digest is 304.
func notModified(h http.Header, d digest.Digest) bool {
	return parseEntityTags(h["If-None-Match"]).match(d, false)
}
