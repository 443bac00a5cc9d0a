package proxy

import (
	"net/http"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Conditional requests (RFC 9110, section 13). The entity tag of a manifest is its digest, in quotes; so a client that has seen a digest can say that a tag
// shall move from there only.

// entityTags are what an If-Match or If-None-Match names.
type entityTags struct {
	any  bool // *
	tags []entityTag
}

type entityTag struct {
	value string
	weak  bool
}

// readEntityTags reads a header's lists. Quotes may be left out: no digest has a comma. What is no tag matches nothing.
func readEntityTags(headers []string) entityTags {
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

// match says whether they name a digest, which is empty when there is none. A weak tag does not count for a strong comparison.
func (e entityTags) match(d digest.Digest, strong bool) bool {
	if d == "" {
		return false
	}
	return e.any || slices.ContainsFunc(e.tags, func(t entityTag) bool { return t.value == string(d) && !(strong && t.weak) })
}

// condition returns what a request demands of the digest that a tag stands for now; nil when it demands nothing.
func condition(h http.Header) func(current digest.Digest) bool {
	match, matchSet := h["If-Match"]
	none, noneSet := h["If-None-Match"]
	if !matchSet && !noneSet {
		return nil
	}
	wanted, unwanted := readEntityTags(match), readEntityTags(none)
	return func(current digest.Digest) bool {
		return (!matchSet || wanted.match(current, true)) && (!noneSet || !unwanted.match(current, false))
	}
}

// unchanged says whether a GET or HEAD of a digest may be answered 304.
func unchanged(h http.Header, d digest.Digest) bool {
	return readEntityTags(h["If-None-Match"]).match(d, false)
}
