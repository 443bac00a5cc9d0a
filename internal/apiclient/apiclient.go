// Package apiclient calls the REST API, for the command line: of a server over HTTP, or of a handler in this process.
//
// Errors have a kind of package fault: the one whose status the server returned, or Unavailable if it did not answer.
package apiclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/fault"
)

const (
	requestTimeout = 2 * time.Minute // for one request and its response
	maxResponse    = 256 << 20       // bytes
	pageSize       = 1000            // objects of one request for a list
)

// Options configure a Client. Server and Transport are required.
type Options struct {
	// Server is the URL of the server: scheme://host[:port].
	Server *url.URL
	// Transport sends requests. See LocalTransport.
	Transport http.RoundTripper
	// Username and Password are sent with each request, unless Username is empty.
	Username, Password string
	UserAgent          string
}

// Client is a client of one server. It is safe for concurrent use.
type Client struct {
	Options
	http *http.Client
}

// New returns a client.
func New(o Options) *Client {
	return &Client{Options: o, http: &http.Client{
		Transport: o.Transport, Timeout: requestTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Response is the answer to a request that succeeded.
type Response struct {
	Status int
	Header http.Header
	Body   []byte
}

// Get reads the object at a path, which begins with pulp.Root, into to.
func (c *Client) Get(ctx context.Context, path string, query url.Values, to any) error {
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	return c.Call(ctx, http.MethodGet, path, nil, to)
}

// Post sends a body to a path, and reads the response into to, which may be nil.
func (c *Client) Post(ctx context.Context, path string, body, to any) error {
	return c.Call(ctx, http.MethodPost, path, body, to)
}

// Call sends a request with a body, which may be nil, and reads the response into to, which may be nil.
func (c *Client) Call(ctx context.Context, method, path string, body, to any) error {
	response, err := c.Do(ctx, method, path, body)
	if err != nil || to == nil {
		return err
	}
	if err := json.Unmarshal(response.Body, to); err != nil {
		return fmt.Errorf("%s %s: unexpected answer: %w", method, c.at(path), err)
	}
	return nil
}

// Do sends a request with a body, which may be nil. It returns an error for responses other than 2xx.
func (c *Client) Do(ctx context.Context, method, path string, body any) (Response, error) {
	var sent io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return Response{}, err
		}
		sent = bytes.NewReader(text)
	}
	r, err := http.NewRequestWithContext(ctx, method, c.at(path), sent)
	if err != nil {
		return Response{}, err
	}
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", c.UserAgent)
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if c.Username != "" {
		r.SetBasicAuth(c.Username, c.Password)
	}
	answer, err := c.http.Do(r)
	if err != nil {
		return Response{}, c.unreachable(ctx, err)
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxResponse+1))
	if err == nil && len(text) > maxResponse {
		return Response{}, fmt.Errorf("%s %s: the answer has more than %d bytes", method, c.at(path), maxResponse)
	}
	if err != nil {
		return Response{}, c.unreachable(ctx, err)
	}
	if answer.StatusCode/100 != 2 {
		return Response{}, c.failure(answer, text)
	}
	return Response{answer.StatusCode, answer.Header, text}, nil
}

// at returns the URL of a path.
func (c *Client) at(path string) string { return c.Server.String() + path }

// unreachable returns the error for a request without a response.
func (c *Client) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var failed *url.Error // its text repeats the method and the path
	if errors.As(err, &failed) {
		err = failed.Err
	}
	return fault.Wrap(fault.Unavailable, err, "cannot reach %s", c.Server)
}

// failure returns the error for a response other than 2xx.
func (c *Client) failure(r *http.Response, body []byte) error {
	if to := r.Header.Get("Location"); r.StatusCode/100 == 3 && to != "" {
		return fmt.Errorf("%s redirects to %s: give the URL of the server itself", r.Request.URL, to)
	}
	text, ours := errorText(body)
	if !ours && r.StatusCode == http.StatusNotFound {
		return fmt.Errorf("%s has no REST API: it answers %s with 404", c.Server, r.Request.URL.Path)
	}
	if !ours {
		text = fmt.Sprintf("%s answers %s %s with %s", c.Server, r.Request.Method, r.Request.URL.Path, r.Status)
	}
	failed := fault.New(kinds[r.StatusCode], "%s", text)
	if seconds, err := strconv.Atoi(r.Header.Get("Retry-After")); err == nil {
		failed.RetryAfter = time.Duration(seconds) * time.Second
	}
	return failed
}

// kinds maps statuses to the kinds of errors. Others are Internal.
var kinds = map[int]fault.Kind{
	http.StatusBadRequest:            fault.Invalid,
	http.StatusUnauthorized:          fault.Unauthenticated,
	http.StatusForbidden:             fault.Denied,
	http.StatusNotFound:              fault.NotFound,
	http.StatusConflict:              fault.Conflict,
	http.StatusRequestEntityTooLarge: fault.TooLarge,
	http.StatusTooManyRequests:       fault.TooMany,
	http.StatusBadGateway:            fault.Unavailable,
	http.StatusServiceUnavailable:    fault.Unavailable,
	http.StatusGatewayTimeout:        fault.Unavailable,
}

// errorText returns the text of an error's body. ok is false if it is none of the API's
// (compatibility.md#errors): an object with "detail" or with texts by field, or a list of texts.
func errorText(body []byte) (text string, ok bool) {
	var texts []string
	if json.Unmarshal(body, &texts) == nil && len(texts) > 0 {
		return strings.Join(texts, " "), true
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(body, &fields) != nil || len(fields) == 0 {
		return "", false
	}
	for _, name := range sortedKeys(fields) {
		for _, message := range fieldTexts(fields[name]) {
			if name != "detail" && name != "non_field_errors" && name != "errors" {
				message = name + ": " + message
			}
			texts = append(texts, message)
		}
	}
	return strings.Join(texts, " "), len(texts) > 0
}

// fieldTexts returns the texts about one field: a text, a list of texts, or texts by key.
func fieldTexts(raw json.RawMessage) []string {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return []string{text}
	}
	var texts []string
	if json.Unmarshal(raw, &texts) == nil {
		return texts
	}
	var byKey map[string]json.RawMessage
	if json.Unmarshal(raw, &byKey) != nil {
		return []string{string(raw)}
	}
	for _, key := range sortedKeys(byKey) {
		texts = append(texts, fieldTexts(byKey[key])...)
	}
	return texts
}
