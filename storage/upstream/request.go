package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/registryclient"
)

// request is one request to the upstream.
type request struct {
	method      string
	name        string        // of the repository, without the prefix; empty for requests to no repository
	path        string        // below /v2/<name>
	at          *url.URL      // replaces name and path in the URL, if it is not nil
	from        string        // another repository from which a blob is mounted
	mount       digest.Digest // the blob to mount
	passThrough bool          // returns a redirect that clients can follow themselves
	push        bool          // needs the permission to push, whatever the method
	header      http.Header
	body        []byte  // a body that can be sent again
	stream      *source // a body that cannot
}

// do sends a request. It returns any response but those of an upstream that is overloaded or broken, which are
// outages. A streamed body can be sent only once: it goes to an upload session whose creation, with the same scope,
// has shown which credentials the upstream wants.
func (s *Storage) do(ctx context.Context, q request) (*http.Response, error) {
	if q.name != "" {
		q.name = s.prefix + q.name
	}
	if q.from != "" {
		q.from = s.prefix + q.from
	}
	r := registryclient.Request{
		Method: q.method, URL: s.url(q), Header: q.header, Scopes: q.scopes(), Body: q.body, PassThrough: q.passThrough,
	}
	if q.stream != nil {
		r.Stream, r.Length = q.stream, q.stream.length
	}
	res, err := s.client.Do(ctx, r)
	if err != nil {
		return nil, failed(err)
	}
	return res, overloaded(res)
}

// url returns the URL of a request whose names have the prefix.
func (s *Storage) url(q request) *url.URL {
	to := *s.base
	to.Path = "/v2/" + q.name + q.path
	if q.at != nil {
		to = *q.at
	}
	if q.from != "" {
		to.RawQuery = url.Values{"mount": {string(q.mount)}, "from": {q.from}}.Encode()
	}
	return &to
}

// scopes returns the scopes of the token for a request.
func (q request) scopes() []string {
	action := "pull,push"
	switch {
	case q.method == http.MethodDelete:
		action = "delete,pull,push"
	case !q.push && (q.method == http.MethodGet || q.method == http.MethodHead):
		action = "pull"
	}
	if q.name == "" {
		return []string{"registry:catalog:*"}
	}
	scopes := []string{"repository:" + q.name + ":" + action}
	if q.from != "" {
		scopes = append(scopes, "repository:"+q.from+":pull")
	}
	return scopes
}

// failed returns the error of a request without a response: an outage, unless the token service refuses the
// credentials.
func failed(err error) error {
	refused, ok := errors.AsType[*registryclient.RefusedError](err)
	if !ok || refused.Status >= http.StatusInternalServerError || refused.Status == http.StatusTooManyRequests {
		return outage(err)
	}
	return fault.Wrap(fault.Unavailable, err, "The upstream registry refuses this server's credentials.")
}

// overloaded returns an outage for a response that says that the upstream cannot answer now, and nil for another.
func overloaded(res *http.Response) error {
	if res.StatusCode < http.StatusInternalServerError && res.StatusCode != http.StatusTooManyRequests {
		return nil
	}
	drain(res)
	err := outage(fmt.Errorf("it answers %s", res.Status))
	if after, ok := registryclient.RetryAfter(res.Header, time.Now()); ok {
		err.RetryAfter = min(max(after, minRetryAfter), maxRetryAfter)
	}
	return err
}

// Bounds of the time after which clients of this server are told to try again, whatever the upstream says.
const (
	minRetryAfter = time.Second
	maxRetryAfter = 5 * time.Minute
)

// outage returns the error of an upstream that does not answer, or answers against the specification.
func outage(err error) *fault.Error {
	return fault.NewOutage(fault.Upstream, registryclient.Sanitized(err), "The upstream registry does not answer.")
}

// errorCode matches the codes of the distribution specification; no other text of an upstream is shown.
var errorCode = regexp.MustCompile(`^[A-Z][A-Z_]{0,63}$`)

// maxErrorBody bounds the body of an error response, in bytes.
const maxErrorBody = 64 << 10

// reason returns the code and the message of the first error in a body. They are empty if there is none, or body is
// nil.
func reason(body io.Reader) (code, message string) {
	if body == nil {
		return "", ""
	}
	var answer struct {
		Errors []struct{ Code, Message string } `json:"errors"`
	}
	if err := json.NewDecoder(io.LimitReader(body, maxErrorBody)).Decode(&answer); err != nil || len(answer.Errors) == 0 {
		return "", ""
	}
	first := answer.Errors[0]
	if !errorCode.MatchString(first.Code) {
		first.Code = ""
	}
	return first.Code, first.Message
}

// refused returns the error of a response with an unexpected status. The upstream's message is for logs only.
// operation names the object in the error; body may be nil.
func refused(operation string, res *http.Response, body io.Reader) error {
	code, message := reason(body)
	why := strings.TrimSpace(fmt.Sprintf("%d %s", res.StatusCode, http.StatusText(res.StatusCode)))
	if code != "" {
		why += " " + code
	}
	cause := errors.New(why)
	if message != "" {
		cause = fmt.Errorf("%s: %.300q", why, message)
	}
	kind := fault.Unavailable
	reads := res.Request == nil || res.Request.Method == http.MethodGet || res.Request.Method == http.MethodHead
	switch s := res.StatusCode; {
	case s == http.StatusUnauthorized, s == http.StatusForbidden && reads:
		return fault.Wrap(fault.Unavailable, cause, "The upstream registry refuses this server's credentials.")
	case s == http.StatusBadRequest:
		kind = fault.Invalid
	case s == http.StatusRequestEntityTooLarge:
		kind = fault.TooLarge
	case !reads && (s == http.StatusForbidden || s == http.StatusConflict || s == http.StatusPreconditionFailed):
		kind = fault.Conflict // a quota, a rule for names, an immutable tag
	}
	return fault.Wrap(kind, cause, "The upstream registry refuses %s: %s.", operation, why)
}

// drain discards and closes the body of a response.
func drain(res *http.Response) {
	registryclient.Discard(res.Body)
	_ = res.Body.Close()
}
