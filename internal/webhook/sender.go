// Package webhook delivers events to the receivers of webhooks. Dispatcher claims streams of deliveries and makes them in order;
// Sender makes one signed request.
package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/countersign/countersign/internal/events"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/registryclient"
)

// Bounds of a response.
const (
	maxHeader  = 64 << 10
	maxBody    = 64 << 10 // is read, so that the connection can be used again
	maxClients = 200      // that keep connections
)

// Sender sends events to receivers. It is safe for concurrent use. Make one with NewSender.
type Sender struct {
	guard     registryclient.Guard
	timeout   time.Duration
	publicURL string
	userAgent string

	mu      sync.Mutex
	clients *simplelru.LRU[clientKey, *http.Client]
}

// clientKey identifies the settings of connections to a receiver.
type clientKey struct {
	id      string
	updated time.Time
}

// NewSender returns a Sender. It connects to public addresses and to those in allow. timeout bounds each request. publicURL is the
// address of this server.
func NewSender(allow []netip.Prefix, timeout time.Duration, publicURL, userAgent string) *Sender {
	clients, err := simplelru.NewLRU(maxClients, func(_ clientKey, c *http.Client) { c.CloseIdleConnections() })
	if err != nil { // the size is a positive constant
		panic(err)
	}
	return &Sender{
		guard:   registryclient.Guard{Allow: allow, Refused: refused},
		timeout: timeout, publicURL: publicURL, userAgent: userAgent, clients: clients,
	}
}

func refused(a netip.Addr, host string) error {
	return fault.New(fault.Denied, "The address %s of %s is not allowed for a webhook: it is private or loopback. "+
		"An administrator allows such addresses with webhooks.allow_private_addresses.", a, host)
}

// result is the result of a request.
type result struct {
	status     int // 0: there was no response
	duration   time.Duration
	failure    string        // empty: the receiver has accepted the event
	retryAfter time.Duration // as the receiver wishes; 0: it did not say
}

// send sends an event to a webhook.
func (s *Sender) send(ctx context.Context, w pulp.Webhook, e events.Event) result {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	r, err := s.exchange(ctx, w, e)
	r.duration = time.Since(began)
	if err != nil {
		r.failure = s.describe(err)
	}
	return r
}

func (s *Sender) exchange(ctx context.Context, w pulp.Webhook, e events.Event) (r result, err error) {
	req, err := s.request(ctx, w, e)
	if err != nil {
		return r, err
	}
	client, err := s.client(w)
	if err != nil {
		return r, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return r, err
	}
	defer func() { _ = resp.Body.Close() }()
	r.status = resp.StatusCode
	if r.status < 200 || r.status > 299 {
		r.failure = fmt.Sprintf("The receiver answered %d.", r.status)
		if resp.Header.Get("Location") != "" {
			r.failure = fmt.Sprintf("The receiver answered %d. Redirects are not followed: change the URL.", r.status)
		}
		if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && seconds > 0 {
			r.retryAfter = time.Duration(min(seconds, int(time.Hour/time.Second))) * time.Second
		}
	}
	_, _ = io.CopyN(io.Discard, resp.Body, maxBody) // the status has decided
	return r, nil
}

// request returns the signed request with an event.
func (s *Sender) request(ctx context.Context, w pulp.Webhook, e events.Event) (*http.Request, error) {
	body, err := e.Encode(s.publicURL)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	secrets := []string{w.Secret}
	if w.OldSecret != "" && w.OldSecretUntil != nil && now.Before(*w.OldSecretUntil) {
		secrets = append(secrets, w.OldSecret)
	}
	signature, err := events.Sign(e.ID, now, body, secrets...)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for name, value := range w.Headers {
		req.Header.Set(name, value)
	}
	for name, value := range map[string]string{
		"Content-Type": events.MediaType + "; charset=utf-8", "User-Agent": s.userAgent,
		events.IDHeader: e.ID, events.TimestampHeader: events.Timestamp(now), events.SignatureHeader: signature,
	} {
		req.Header.Set(name, value)
	}
	return req, nil
}

// client returns the client for a webhook, which keeps its connections until the webhook changes.
func (s *Sender) client(w pulp.Webhook) (*http.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := clientKey{w.ID, w.Updated}
	if c, ok := s.clients.Get(key); ok {
		return c, nil
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if w.CACert != nil && !roots.AppendCertsFromPEM([]byte(*w.CACert)) {
		return nil, fault.New(fault.Invalid, "The webhook's ca_cert holds no certificate.")
	}
	c := &http.Client{
		Transport: &http.Transport{
			DialContext: s.guard.Dialer(s.timeout), TLSHandshakeTimeout: s.timeout, ResponseHeaderTimeout: s.timeout,
			TLSClientConfig: &tls.Config{
				RootCAs: roots, MinVersion: tls.VersionTLS12,
				InsecureSkipVerify: !w.TLSValidation, //nolint:gosec // the webhook's own setting
			},
			DisableCompression: true, ForceAttemptHTTP2: true, MaxResponseHeaderBytes: maxHeader,
			MaxIdleConnsPerHost: perReceiver, IdleConnTimeout: time.Minute,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	s.clients.Add(key, c)
	return c, nil
}

// describe returns the sentence that tells users why there was no response. It contains neither the URL nor headers.
func (s *Sender) describe(err error) string {
	if e, ok := errors.AsType[*fault.Error](err); ok {
		return e.Msg
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Sprintf("The receiver did not answer within %v (webhooks.timeout).", s.timeout)
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	if e, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err); ok && e.Timeout() {
		return fmt.Sprintf("The receiver did not answer within %v (webhooks.timeout).", s.timeout)
	}
	return fmt.Sprintf("The receiver could not be reached: %.300s", err.Error())
}
