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

// NextPage returns where a list that was read at a URL goes on, as its Link headers say; nil when it does not. A registry behind a proxy often does not know its own scheme or
// host: the page is looked for at the host, and under the path, where this one was. It is an error when the path is another.
func NextPage(at *url.URL, h http.Header) (*url.URL, error) {
	m := linkNext.FindStringSubmatch(strings.Join(h.Values("Link"), ", "))
	if m == nil {
		return nil, nil
	}
	next, err := at.Parse(m[1])
	if err != nil || next.Path != at.Path {
		return nil, errors.New("the list goes on elsewhere")
	}
	page := *at
	page.RawQuery = next.RawQuery
	return &page, nil
}
