// Package upstream keeps blobs, manifests and tags in an existing registry by the OCI distribution specification. It
// implements storage.Storage and storage.Manifests.
//
// Blobs stream through; only manifests are held in memory. Requests carry this server's own credentials, never those
// of its clients; the rules for them are those of internal/registryclient for a trusted registry.
package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/registryclient"
	"github.com/countersign/countersign/storage"
)

const (
	maxRedirects = 10
	pingTimeout  = 10 * time.Second
	maxPassword  = 64 << 10 // bytes of a password file; passwords of some clouds are long
)

// Options are the location of the upstream and the settings of connections to it.
type Options struct {
	URL                string // http(s)://host[:port]
	Prefix             string // of the names there, empty or ending in /: team/app here is Prefix + team/app there
	Username           string // empty: anonymous
	Password           string
	PasswordFile       string   // its first line replaces Password; the file is read for each use, so that it may change
	Token              string   // a bearer token for all requests; replaces the user
	TokenHosts         []string // host[:port] of token services on other hosts that may receive the password
	CAFile             string   // PEM certificates to trust besides the system's
	InsecureSkipVerify bool
	// WrapTransport wraps the transport of all requests; nil means none.
	WrapTransport func(http.RoundTripper) http.RoundTripper
}

// Storage is an existing registry. It is safe for concurrent use.
type Storage struct {
	base   *url.URL
	prefix string
	client *registryclient.Client
	lists  bounds
}

var (
	_ storage.Storage   = (*Storage)(nil)
	_ storage.Manifests = (*Storage)(nil)
)

// New returns the registry that the options describe. It sends no request; see Ping. It returns an error if an option
// cannot be used, such as a file that cannot be read.
func New(o Options) (*Storage, error) {
	base, ok := parseURL(o.URL)
	if !ok {
		return nil, errors.New("upstream_url: want http(s)://host[:port], without a user")
	}
	transport, err := newTransport(o)
	if err != nil {
		return nil, err
	}
	login, err := o.login(base)
	if err != nil {
		return nil, err
	}
	client := registryclient.New(registryclient.Options{Base: base, Transport: o.wrap(transport), Login: login, MaxRedirects: maxRedirects})
	return &Storage{base: base, prefix: o.Prefix, client: client, lists: listBounds}, nil
}

// wrap returns the transport for requests.
func (o Options) wrap(t http.RoundTripper) http.RoundTripper {
	if o.WrapTransport == nil {
		return t
	}
	return o.WrapTransport(t)
}

// parseURL reads an http or https URL without a path and a user. ok is false if the text is not such a URL.
func parseURL(text string) (base *url.URL, ok bool) {
	base, err := url.Parse(text)
	if err != nil || base.Host == "" || strings.Trim(base.Path, "/") != "" || base.User != nil {
		return nil, false
	}
	base.Path = ""
	return base, base.Scheme == "http" || base.Scheme == "https"
}

// login returns the credentials for the upstream at base.
func (o Options) login(base *url.URL) (registryclient.Login, error) {
	if o.Token != "" {
		return registryclient.Login{Token: o.Token}, nil
	}
	l := registryclient.Login{
		Username: o.Username,
		Password: func() (string, error) { return o.Password, nil },
		Trusts: func(realm *url.URL) bool {
			return (realm.Scheme == "https" || base.Scheme == "http") && registryclient.HostIn(realm, o.TokenHosts)
		},
	}
	if o.PasswordFile == "" {
		return l, nil
	}
	l.Password = func() (string, error) { return readPassword(o.PasswordFile) }
	_, err := l.Password()
	return l, err
}

// readPassword returns the first line of a file.
func readPassword(file string) (string, error) {
	unreadable := func(err error) error {
		return fmt.Errorf("upstream.password_file: %w", fault.Wrap(fault.Unavailable, err, "The upstream's password cannot be read."))
	}
	f, err := os.Open(file)
	if err != nil {
		return "", unreadable(err)
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, maxPassword))
	if err != nil {
		return "", unreadable(err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return strings.TrimSuffix(line, "\r"), nil
}

// Ping implements storage.Storage: the upstream answers, even if it asks for credentials.
func (s *Storage) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	at := *s.base
	at.Path = "/v2/"
	res, err := s.client.Do(ctx, registryclient.Request{Method: http.MethodGet, URL: &at, Anonymous: true})
	if err != nil {
		return outage(err)
	}
	drain(res)
	if res.StatusCode != http.StatusOK && res.StatusCode != http.StatusUnauthorized {
		return outage(fmt.Errorf("GET /v2/ answers %s", res.Status))
	}
	return nil
}
