package upstream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/registryclient"
)

// request is one request to the upstream.
type request struct {
	method string
	name   string   // the repository
	path   string   // behind /v2/<name>; with its query
	at     *url.URL // where, in the place of path
	from   string   // another repository, to mount a blob from
	mount  digest.Digest
	handOn bool // a redirect that clients can follow is the answer
	push   bool // needs the right to push, whatever the method
	header http.Header
	body   []byte  // a body that can be sent again
	stream *source // a body that cannot
}

// do sends a request with credentials, and once more with fresh ones when the upstream asks for them. A body that streams is there only
// once; it goes to an upload whose opening, under the same scope, has shown what the upstream asks for.
func (s *Storage) do(ctx context.Context, q request) (*http.Response, error) {
	if q.name != "" {
		q.name = s.prefix + q.name
	}
	if q.from != "" {
		q.from = s.prefix + q.from
	}
	client := s.client
	if q.handOn {
		client = s.handOn
	}
	scope := q.scope()
	for attempt := 0; ; attempt++ {
		r, err := s.build(ctx, q)
		if err != nil {
			return nil, err
		}
		if err := s.auth.Authorize(ctx, r, scope); err != nil {
			return nil, outside(err)
		}
		res, err := client.Do(r)
		if err != nil {
			return nil, unavailable(err)
		}
		if res.StatusCode != http.StatusUnauthorized || attempt > 0 || q.stream != nil || !registryclient.SameHost(res.Request.URL, s.base) {
			return res, overloaded(res)
		}
		drain(res)
		if err := s.auth.Learn(res, scope); err != nil {
			return nil, outside(err)
		}
	}
}

// scope is what a token is needed for.
func (q request) scope() []string {
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

func (s *Storage) build(ctx context.Context, q request) (*http.Request, error) {
	to := s.base.String() + "/v2/" + q.name + q.path
	if q.at != nil {
		to = q.at.String()
	}
	if q.from != "" {
		to += "?" + url.Values{"mount": {string(q.mount)}, "from": {q.from}}.Encode()
	}
	var body io.Reader
	switch {
	case q.stream != nil && q.stream.length != 0:
		body = q.stream
	case q.body != nil:
		body = bytes.NewReader(q.body)
	}
	r, err := http.NewRequestWithContext(ctx, q.method, to, body)
	if err != nil {
		return nil, err
	}
	if body != nil && q.stream != nil {
		r.ContentLength = q.stream.length
	}
	for key, values := range q.header {
		r.Header[key] = values
	}
	return r, nil
}

// outside is the error of a request that is not let in.
func outside(err error) error {
	refused, ok := errors.AsType[*registryclient.RefusedError](err)
	if !ok || refused.Status >= http.StatusInternalServerError || refused.Status == http.StatusTooManyRequests {
		return unavailable(err)
	}
	return fault.Wrap(fault.Unavailable, err, "The upstream registry refuses this server's credentials.")
}

// Bounds of redirects.
const maxRedirects = 10

// leaveCredentials lets a redirect to another host go there without credentials. net/http alone carries them to other ports and
// schemes of a host, and to the hosts below it.
func leaveCredentials(r *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return errors.New("too many redirects")
	}
	if !registryclient.SameHost(r.URL, via[0].URL) {
		r.Header.Del("Authorization")
		r.Header.Del("Referer") // an upload's location lets in whoever knows it
	}
	return nil
}

// leaveToClients ends at a redirect that clients of ours can follow: to another host, which needs none of our credentials, and not from https to http.
func (s *Storage) leaveToClients(r *http.Request, via []*http.Request) error {
	to := r.URL
	if !registryclient.SameHost(to, s.base) && to.User == nil && (to.Scheme == "https" || to.Scheme == "http" && s.base.Scheme == "http") {
		return http.ErrUseLastResponse
	}
	return leaveCredentials(r, via)
}

// overloaded turns the answers of an upstream that cannot now into an error.
func overloaded(res *http.Response) error {
	if res.StatusCode < http.StatusInternalServerError && res.StatusCode != http.StatusTooManyRequests {
		return nil
	}
	drain(res)
	err := unavailable(fmt.Errorf("it answers %s", res.Status))
	err.RetryAfter = retryAfter(res.Header.Get("Retry-After"), time.Now())
	return err
}

// Bounds of the time after which clients of ours are told to try again, whatever the upstream says.
const (
	minRetryAfter = time.Second
	maxRetryAfter = 5 * time.Minute
)

// retryAfter reads a Retry-After header: seconds, or a date (RFC 9110 section 10.2.3). It is 0 where there is none, or one that is neither.
func retryAfter(text string, now time.Time) time.Duration {
	var after time.Duration
	n, err := strconv.ParseUint(text, 10, 64)
	at, notDate := http.ParseTime(text)
	switch {
	case err == nil:
		after = time.Duration(min(n, uint64(maxRetryAfter/time.Second))) * time.Second
	case errors.Is(err, strconv.ErrRange):
		after = maxRetryAfter
	case notDate == nil:
		after = at.Sub(now)
	default:
		return 0
	}
	return min(max(after, minRetryAfter), maxRetryAfter)
}

func unavailable(err error) *fault.Error {
	if u, ok := errors.AsType[*url.Error](err); ok { // its text has the whole URL
		err = u.Err
	}
	return fault.NewOutage(fault.Upstream, err, "The upstream registry does not answer.")
}

// errorCode is what a code of the distribution specification looks like; nothing else of an upstream's words is shown.
var errorCode = regexp.MustCompile(`^[A-Z][A-Z_]{0,63}$`)

// reason returns the code and the message of an answer that says no; they are empty where it gives none, or body is nil.
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

// refused is the error for an answer that says no. The upstream's message is only for logs. body may be nil.
func refused(what string, res *http.Response, body io.Reader) error {
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
	case !reads && (s == http.StatusForbidden || s == http.StatusConflict || s == http.StatusPreconditionFailed): // a quota, a rule of names, an immutable tag
		kind = fault.Conflict
	}
	return fault.Wrap(kind, cause, "The upstream registry refuses %s: %s.", what, why)
}

// drain ends an answer so that its connection can be used again.
func drain(res *http.Response) {
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, maxErrorBody))
	_ = res.Body.Close()
}
