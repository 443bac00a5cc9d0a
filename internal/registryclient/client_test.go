package registryclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/countersign/countersign/internal/fault"
)

// server answers the requests of a test without a network and records them.
type server struct {
	requests []string // method, URL and, if there is one, the Authorization header
	answer   func(r *http.Request) *http.Response
}

// RoundTrip implements http.RoundTripper.
func (s *server) RoundTrip(r *http.Request) (*http.Response, error) {
	s.requests = append(s.requests, strings.TrimSpace(r.Method+" "+r.URL.String()+" "+r.Header.Get("Authorization")))
	if r.Body != nil {
		_, _ = io.Copy(io.Discard, r.Body)
	}
	res := s.answer(r)
	if res == nil {
		return nil, errors.New("connection reset")
	}
	res.Request = r
	return res, nil
}

// respond returns a response with a status, a body and headers, given as key and value.
func respond(status int, body string, headers ...string) *http.Response {
	h := http.Header{}
	for pair := range slices.Chunk(headers, 2) {
		h.Set(pair[0], pair[1])
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body))}
}

func mustParse(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func robot(secret string) Login {
	return Login{Username: "robot", Password: func() (string, error) { return secret, nil }}
}

// TestDoAuthorizes proves that a request is sent again with a token after a challenge, that the token is used for the
// next request with its scope, and that it is renewed when it has expired.
func TestDoAuthorizes(t *testing.T) {
	t.Parallel()
	tokens := 0
	s := &server{}
	s.answer = func(r *http.Request) *http.Response {
		switch {
		case r.URL.Path == "/token":
			tokens++
			return respond(http.StatusOK, fmt.Sprintf(`{"token":"t%d","expires_in":300}`, tokens))
		case r.Header.Get("Authorization") != fmt.Sprintf("Bearer t%d", tokens):
			return respond(http.StatusUnauthorized, "", "WWW-Authenticate", `Bearer realm="https://r.test/token",service="r"`)
		}
		return respond(http.StatusOK, "")
	}
	c := New(Options{Base: mustParse(t, "https://r.test"), Transport: s, Login: robot("secret"), MaxRedirects: 5})
	now := time.Now()
	c.credentials.now = func() time.Time { return now }
	send := func() {
		t.Helper()
		q := Request{Method: http.MethodGet, URL: mustParse(t, "https://r.test/v2/"), Scopes: []string{"repository:a:pull"}}
		res, err := c.Do(t.Context(), q)
		if err != nil || res.StatusCode != http.StatusOK {
			t.Fatalf("Do = %v, %v", res, err)
		}
		drain(res)
	}
	send()
	send()
	now = now.Add(295 * time.Second) // less than renewBefore is left
	send()
	basic := "Basic cm9ib3Q6c2VjcmV0"
	service := "GET https://r.test/token?scope=repository%3Aa%3Apull&service=r " + basic
	want := []string{
		"GET https://r.test/v2/", service, "GET https://r.test/v2/ Bearer t1", "GET https://r.test/v2/ Bearer t1", service,
		"GET https://r.test/v2/ Bearer t2",
	}
	if !slices.Equal(s.requests, want) {
		t.Errorf("requests:\n%s\nwant:\n%s", strings.Join(s.requests, "\n"), strings.Join(want, "\n"))
	}
}

// TestDoSendsStreamsOnce proves that a request with a stream is neither retried nor sent again after a challenge.
func TestDoSendsStreamsOnce(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusUnauthorized, http.StatusServiceUnavailable} {
		s := &server{answer: func(*http.Request) *http.Response { return respond(status, "", "WWW-Authenticate", `Basic realm="r"`) }}
		c := New(Options{Base: mustParse(t, "https://r.test"), Transport: s, Login: robot("secret"), Retries: 3})
		q := Request{Method: http.MethodPatch, URL: mustParse(t, "https://r.test/up"), Stream: strings.NewReader("bytes"), Length: 5}
		res, err := c.Do(t.Context(), q)
		if err != nil || res.StatusCode != status || len(s.requests) != 1 {
			t.Errorf("%d: Do = %v, %v after %d requests", status, res, err, len(s.requests))
		}
	}
}

// TestDoRetries proves which failures are followed by further attempts, and how long the waits are.
func TestDoRetries(t *testing.T) {
	t.Parallel()
	busy := func(after string) func(int) *http.Response {
		return func(attempt int) *http.Response {
			if attempt > 1 {
				return respond(http.StatusOK, "")
			}
			return respond(http.StatusServiceUnavailable, "", "Retry-After", after)
		}
	}
	always := func(status int) func(int) *http.Response {
		return func(int) *http.Response { return respond(status, "") }
	}
	tests := map[string]struct {
		answer   func(attempt int) *http.Response
		attempts int
		status   int // 0: an error
		least    time.Duration
		most     time.Duration
	}{
		"success":               {answer: always(http.StatusOK), attempts: 1, status: http.StatusOK},
		"not found":             {answer: always(http.StatusNotFound), attempts: 1, status: http.StatusNotFound},
		"a temporary status":    {answer: always(http.StatusBadGateway), attempts: 4, status: http.StatusBadGateway, least: 3500 * time.Millisecond, most: 5250 * time.Millisecond},
		"a broken connection":   {answer: func(int) *http.Response { return nil }, attempts: 4, least: 3500 * time.Millisecond, most: 5250 * time.Millisecond},
		"Retry-After":           {answer: busy("100"), attempts: 2, status: http.StatusOK, least: 100 * time.Second, most: 100 * time.Second},
		"a long Retry-After":    {answer: busy("121"), attempts: 1, status: http.StatusServiceUnavailable},
		"a malformed one":       {answer: busy("soon"), attempts: 2, status: http.StatusOK, least: 500 * time.Millisecond, most: 750 * time.Millisecond},
		"one that is too large": {answer: busy("99999999999999999999"), attempts: 1, status: http.StatusServiceUnavailable},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := &server{}
				s.answer = func(*http.Request) *http.Response { return tt.answer(len(s.requests)) }
				retried := 0
				c := New(Options{Base: mustParse(t, "https://r.test"), Transport: s, Retries: 3, Retrying: func(_ context.Context, _ *url.URL, err error, _ time.Duration) {
					if retried++; err == nil {
						t.Error("Retrying has no error")
					}
				}})
				start := time.Now()
				res, err := c.Do(t.Context(), Request{Method: http.MethodGet, URL: mustParse(t, "https://r.test/v2/")})
				status := 0
				if err == nil {
					status = res.StatusCode
				}
				if status != tt.status || len(s.requests) != tt.attempts || retried != tt.attempts-1 {
					t.Errorf("Do = %d, %v after %d attempts and %d retries", status, err, len(s.requests), retried)
				}
				if took := time.Since(start); took < tt.least || took > tt.most {
					t.Errorf("took %v, want between %v and %v", took, tt.least, tt.most)
				}
			})
		})
	}
}

// TestPassThrough proves which redirects are returned to the caller. The others are followed.
func TestPassThrough(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		base, location string
		want           int
	}{
		"another host":              {base: "https://r.test", location: "https://cdn.test/blob?sig=x", want: http.StatusTemporaryRedirect},
		"the same host":             {base: "https://r.test", location: "/blob", want: http.StatusOK},
		"the same host with a port": {base: "https://r.test", location: "https://r.test:443/blob", want: http.StatusOK},
		"a URL with a user":         {base: "https://r.test", location: "https://u:p@cdn.test/blob", want: http.StatusOK},
		"from https to http":        {base: "https://r.test", location: "http://cdn.test/blob", want: http.StatusOK},
		"from http to http":         {base: "http://r.test", location: "http://cdn.test/blob", want: http.StatusTemporaryRedirect},
	}
	for name, tt := range tests {
		s := &server{answer: func(r *http.Request) *http.Response {
			if r.URL.Path == "/v2/" {
				return respond(http.StatusTemporaryRedirect, "", "Location", tt.location)
			}
			return respond(http.StatusOK, "")
		}}
		c := New(Options{Base: mustParse(t, tt.base), Transport: s, MaxRedirects: 5})
		res, err := c.Do(t.Context(), Request{Method: http.MethodGet, URL: mustParse(t, tt.base+"/v2/"), PassThrough: true})
		if err != nil || res.StatusCode != tt.want {
			t.Errorf("%s: Do = %v, %v, want %d", name, res, err, tt.want)
		}
	}
}

// TestHeadersAtAnotherHost proves which headers follow a redirect to another host, for each level of trust.
func TestHeadersAtAnotherHost(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		untrusted bool
		want      []string
	}{
		"trusted":   {want: []string{"Accept", "Range", "User-Agent", "X-Own"}},
		"untrusted": {untrusted: true, want: []string{"Accept", "Range", "User-Agent"}},
	}
	for name, tt := range tests {
		var got []string
		s := &server{answer: func(r *http.Request) *http.Response {
			switch {
			case r.URL.Host == "cdn.test":
				for key := range r.Header {
					got = append(got, key)
				}
				return respond(http.StatusOK, "")
			case r.Header.Get("Authorization") == "":
				return respond(http.StatusUnauthorized, "", "WWW-Authenticate", `Basic realm="r"`)
			}
			return respond(http.StatusFound, "", "Location", "https://cdn.test/blob")
		}}
		c := New(Options{
			Base: mustParse(t, "https://r.test"), Transport: s, Login: robot("secret"), Untrusted: tt.untrusted, MaxRedirects: 5,
			UserAgent: "test", Header: http.Header{"X-Own": {"1"}},
		})
		res, err := c.Do(t.Context(), Request{
			Method: http.MethodGet, URL: mustParse(t, "https://r.test/v2/"), Header: http.Header{"Accept": {"*/*"}, "Range": {"bytes=0-1"}},
		})
		slices.Sort(got)
		if err != nil || res.StatusCode != http.StatusOK || !slices.Equal(got, tt.want) {
			t.Errorf("%s: Do = %v, %v; the other host gets %v, want %v", name, res, err, got, tt.want)
		}
	}
}

// TestGuestsAreBounded proves that the client forgets the hosts that have not been used for the longest time, and not
// all at once.
func TestGuestsAreBounded(t *testing.T) {
	t.Parallel()
	var g guests
	at := func(n int) *url.URL { return mustParse(t, fmt.Sprintf("https://h%d.test/v2/", n)) }
	for n := range maxGuests + 1 {
		res := respond(http.StatusUnauthorized, "", "WWW-Authenticate", `Bearer realm="https://auth.test/token"`)
		res.Request = &http.Request{URL: at(n)}
		if err := g.handleChallenge(res); err != nil {
			t.Fatal(err)
		}
	}
	for n, want := range map[int]bool{0: false, 1: true, maxGuests: true} {
		if got := g.known().Contains(origin(at(n))); got != want {
			t.Errorf("host %d is known = %t, want %t", n, got, want)
		}
	}
}

// TestDocumentIsBounded proves that a body of the maximum size is read and a larger one is refused, without a further
// attempt.
func TestDocumentIsBounded(t *testing.T) {
	t.Parallel()
	for body, refused := range map[string]bool{"12345678": false, "123456789": true} {
		s := &server{answer: func(*http.Request) *http.Response { return respond(http.StatusOK, body) }}
		c := New(Options{Base: mustParse(t, "https://r.test"), Transport: s, Retries: 3})
		d, err := c.Document(t.Context(), Request{Method: http.MethodGet, URL: mustParse(t, "https://r.test/v2/")}, 8)
		if refused != fault.Is(err, fault.Unavailable) || !refused && string(d.Body) != body || len(s.requests) != 1 {
			t.Errorf("%s: Document = %+v, %v after %d requests", body, d, err, len(s.requests))
		}
	}
}
