// Package negotiate decides whether a client accepts a media type (RFC 9110, section 12.5.1), for the registry protocol
// and the REST API.
package negotiate

import (
	"strconv"
	"strings"
)

// Accepts reports whether the Accept headers of a request allow a media type. The most specific matching range decides: the
// type itself, then type/*, then */*. Among equal ranges the highest quality counts, and quality 0 refuses. Other parameters
// and the case of letters do not count. Headers without a range allow everything.
func Accepts(headers []string, mediaType string) bool {
	kind, _, _ := strings.Cut(strings.ToLower(mediaType), "/")
	ranges := []string{strings.ToLower(mediaType), kind + "/*", "*/*"} // the most specific first
	named, best, accepted := false, len(ranges), false
	for _, header := range headers {
		for item := range strings.SplitSeq(header, ",") {
			name, parameters, _ := strings.Cut(item, ";")
			if name = strings.ToLower(strings.TrimSpace(name)); name == "" {
				continue
			}
			named = true
			for i, r := range ranges[:min(best+1, len(ranges))] {
				if name != r {
					continue
				}
				accepted = i == best && accepted || positive(parameters)
				best = i
				break
			}
		}
	}
	return !named || accepted
}

// positive reports whether the parameters of a media range give it a quality above 0. A malformed quality counts as an
// absent one, which means 1.
func positive(parameters string) bool {
	for parameter := range strings.SplitSeq(parameters, ";") {
		name, value, _ := strings.Cut(parameter, "=")
		if !strings.EqualFold(strings.TrimSpace(name), "q") {
			continue
		}
		if q, err := strconv.ParseFloat(strings.TrimSpace(value), 64); err == nil && q <= 0 {
			return false
		}
	}
	return true
}
