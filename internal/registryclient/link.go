package registryclient

import (
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

// linkNext finds the next page in Link headers (RFC 8288).
var linkNext = regexp.MustCompile(`(?i)<([^>]*)>\s*;[^,]*\brel="?next\b"?`)

// NextPage returns the URL of the page after the one at a URL, as the Link headers of its response say, or nil if it
// is the last one. A registry behind a proxy often does not know its own scheme or host, so that only the query of
// the link counts. It returns an error if the link has another path.
func NextPage(at *url.URL, h http.Header) (*url.URL, error) {
	m := linkNext.FindStringSubmatch(strings.Join(h.Values("Link"), ", "))
	if m == nil {
		return nil, nil
	}
	next, err := at.Parse(m[1])
	if err != nil || next.Path != at.Path {
		return nil, errors.New("the next page has another path")
	}
	page := *at
	page.RawQuery = next.RawQuery
	return &page, nil
}
