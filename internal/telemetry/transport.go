package telemetry

import (
	"io"
	"log/slog"
	"net/http"
	"time"
)

// ClientObserver receives the requests that this program sends to other servers.
type ClientObserver interface {
	// ClientRequestEnded is called when the headers of a response have arrived, or the request has failed; status is 0 then.
	ClientRequestEnded(method string, status int, took time.Duration)
	// ClientReceived is called for bytes of the bodies of responses.
	ClientReceived(n int)
}

// ObserveTransport returns a transport that sends requests with another one and reports them to an observer.
func ObserveTransport(next http.RoundTripper, to ClientObserver) http.RoundTripper {
	return observedTransport{next, to}
}

type observedTransport struct {
	next http.RoundTripper
	to   ClientObserver
}

// RoundTrip implements http.RoundTripper.
func (t observedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	began := time.Now()
	_, span := StartSpan(r.Context(), KindClient, knownMethod(r.Method), slog.String("http.request.method", knownMethod(r.Method)),
		slog.String("server.address", r.URL.Hostname()), slog.String("url.path", r.URL.Path))
	res, err := t.next.RoundTrip(r)
	if err != nil {
		t.to.ClientRequestEnded(r.Method, 0, time.Since(began))
		span.Fail("no response") // the error may contain a URL with credentials
		span.End(nil)
		return nil, err
	}
	t.to.ClientRequestEnded(r.Method, res.StatusCode, time.Since(began))
	span.Set(slog.Int("http.response.status_code", res.StatusCode))
	if res.StatusCode >= http.StatusBadRequest {
		span.Fail("")
	}
	span.End(nil)
	if res.Body != http.NoBody {
		res.Body = receivedBody{res.Body, t.to}
	}
	return res, nil
}

// receivedBody counts the bytes of the body of a response.
type receivedBody struct {
	io.ReadCloser
	to ClientObserver
}

// Read implements io.Reader.
func (b receivedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.to.ClientReceived(n)
	}
	return n, err
}
