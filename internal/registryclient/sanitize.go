package registryclient

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strings"
)

// Sanitized returns an error whose text contains no credentials and no addresses of this server, for logs and
// responses. It wraps err. It returns nil for nil.
func Sanitized(err error) error {
	if err == nil {
		return nil
	}
	return &sanitizedError{err}
}

type sanitizedError struct{ err error }

// Error implements error.
func (e *sanitizedError) Error() string { return sanitizedText(e.err) }

// Unwrap returns the error with all its text.
func (e *sanitizedError) Unwrap() error { return e.err }

// secretParts matches the query and the user of a URL.
var secretParts = regexp.MustCompile(`\?[^\s"'<>]*|//[^\s/@"']*@`)

// maxErrorText is the maximum length of the text of a Sanitized error, in bytes before invalid UTF-8 is replaced.
const maxErrorText = 200

func sanitizedText(err error) string {
	if u, ok := errors.AsType[*url.Error](err); ok { // its text contains the whole URL
		err = u.Err
	}
	text := err.Error()
	if e, ok := errors.AsType[*net.OpError](err); ok {
		text = fmt.Sprintf("%s %v: %v", e.Op, e.Addr, e.Err)
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok {
		text = fmt.Sprintf("lookup %s: %s", e.Name, e.Err)
	}
	text = secretParts.ReplaceAllString(text, "")
	text = text[:min(len(text), maxErrorText)]
	return strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, text)
}
