// Package upstream keeps blobs, manifests and tags in an existing registry, reached by URL under the OCI distribution
// specification.
//
// Bytes stream through; nothing is buffered whole but manifests. Credentials are this server's own and go to the upstream and
// to the token services that Options name: others are asked anonymously.
package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/bearer"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/storage"
)

// Bounds of what is taken from the upstream.
const (
	maxManifest   = 4 << 20
	maxErrorBody  = 64 << 10
	headerTimeout = time.Minute      // until the upstream begins to answer
	dialTimeout   = 10 * time.Second // to reach it
	pingTimeout   = 10 * time.Second
	idleConns     = 64
	idleTime      = time.Minute      // a connection without use
	stallTime     = 75 * time.Second // in which no byte comes or goes; longer than those of the others, and than clients may send nothing
	buffers       = 64 << 10         // bytes
)

// Options say where the upstream is and how to reach it.
type Options struct {
	URL                string // http(s)://host[:port]
	Prefix             string // of the names there, empty or ending in /: `team/app` here is Prefix + `team/app` there
	Username           string // empty: anonymous
	Password           string
	Token              string   // a bearer token that is good for everything, in the place of a user
	TokenHosts         []string // host[:port] of token services beside the upstream's own host that may know the password
	CAFile             string   // PEM certificates to trust beside the system's
	InsecureSkipVerify bool
}

// Storage is an existing registry. It is safe for concurrent use.
type Storage struct {
	base   *url.URL
	prefix string
	client *http.Client
	still  *http.Client // follows no redirect
	auth   *bearer.Authority
	lists  bounds
}

var (
	_ storage.Storage   = (*Storage)(nil)
	_ storage.Manifests = (*Storage)(nil)
)

// New returns the registry at a URL. It does not reach for it: see Ping.
func New(o Options) (*Storage, error) {
	base, err := url.Parse(o.URL)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" || strings.Trim(base.Path, "/") != "" || base.User != nil {
		return nil, errors.New("upstream_url: want http(s)://host[:port], without a user")
	}
	base.Path = ""
	transport, err := newTransport(o)
	if err != nil {
		return nil, err
	}
	s := &Storage{
		base: base, prefix: o.Prefix, lists: usual, client: &http.Client{Transport: transport, CheckRedirect: leaveCredentials},
		still: &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}
	if o.Token != "" {
		s.auth = bearer.Fixed(base, o.Token)
		return s, nil
	}
	s.auth = bearer.New(base, s.client, o.Username, o.Password, func(realm *url.URL) bool {
		return (realm.Scheme == "https" || base.Scheme == "http") && slices.Contains(o.TokenHosts, realm.Host)
	})
	return s, nil
}

func newTransport(o Options) (*http.Transport, error) {
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("upstream.ca_file: %w", err)
		}
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("upstream.ca_file: no certificates in %s", o.CAFile)
		}
	}
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		TLSClientConfig:       &tls.Config{RootCAs: roots, InsecureSkipVerify: o.InsecureSkipVerify, MinVersion: tls.VersionTLS12}, //nolint:gosec // the operator's choice
		MaxIdleConnsPerHost:   idleConns,
		DialContext:           dial,
		ReadBufferSize:        buffers,
		WriteBufferSize:       buffers,
		IdleConnTimeout:       idleTime,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: headerTimeout,
		DisableCompression:    true, // bytes stay as they are
	}, nil
}

// dial reaches the upstream by a connection that ends when nothing moves on it.
func dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &impatient{c}, nil
}

// impatient is a connection that fails when nothing moves on it for stallTime. What is written gives the answer time too.
type impatient struct{ net.Conn }

// Read implements net.Conn.
func (c *impatient) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(stallTime)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

// Write implements net.Conn.
func (c *impatient) Write(p []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(stallTime)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// Ping implements storage.Storage: the upstream answers, if only that it wants credentials.
func (s *Storage) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.base.String()+"/v2/", nil)
	if err != nil {
		return err
	}
	res, err := s.client.Do(r)
	if err != nil {
		return unavailable(err)
	}
	drain(res)
	if res.StatusCode != http.StatusOK && res.StatusCode != http.StatusUnauthorized {
		return unavailable(fmt.Errorf("GET /v2/ answers %s", res.Status))
	}
	return nil
}

// Stat implements storage.Storage.
func (s *Storage) Stat(ctx context.Context, name string, dgst digest.Digest) (int64, error) {
	res, err := s.do(ctx, request{method: http.MethodHead, name: name, path: "/blobs/" + string(dgst)})
	if err != nil {
		return 0, err
	}
	drain(res)
	switch {
	case res.StatusCode == http.StatusNotFound:
		return 0, storage.ErrNotFound
	case res.StatusCode != http.StatusOK:
		return 0, refused("HEAD of a blob", res, nil)
	case res.ContentLength < 0:
		return 0, unavailable(errors.New("HEAD of a blob says no length"))
	}
	return res.ContentLength, nil
}

// Open implements storage.Storage. The bytes are fetched as they are read; to read on elsewhere after a Seek asks for a range.
func (s *Storage) Open(ctx context.Context, name string, dgst digest.Digest) (io.ReadSeekCloser, int64, error) {
	res, err := s.do(ctx, request{method: http.MethodGet, name: name, path: "/blobs/" + string(dgst)})
	if err != nil {
		return nil, 0, err
	}
	switch {
	case res.StatusCode == http.StatusOK && res.ContentLength >= 0:
	case res.StatusCode == http.StatusOK:
		_ = res.Body.Close()
		return nil, 0, unavailable(errors.New("GET of a blob says no length"))
	case res.StatusCode == http.StatusNotFound:
		drain(res)
		return nil, 0, storage.ErrNotFound
	default:
		defer drain(res)
		return nil, 0, refused("a blob", res, res.Body)
	}
	size := res.ContentLength
	open := func(at int64) (io.ReadCloser, error) { return s.openAt(ctx, name, dgst, at, size) }
	return storage.NewReader(size, open, res.Body), size, nil
}

// Locate asks for a blob, and returns where its bytes are to be had by anybody, when the upstream says so; else it may return the bytes, from the first on. Neither, and no
// error, when Open is to be asked. The place is good for a short while, and for whoever knows it.
func (s *Storage) Locate(ctx context.Context, name string, dgst digest.Digest) (at string, content io.ReadCloser, err error) {
	res, err := s.do(ctx, request{method: http.MethodGet, name: name, path: "/blobs/" + string(dgst), still: true})
	if err != nil {
		return "", nil, err
	}
	if res.StatusCode == http.StatusOK {
		return "", res.Body, nil
	}
	drain(res)
	to, err := res.Location()
	switch {
	case res.StatusCode < 300 || res.StatusCode >= 400 || err != nil: // Open says what is wrong
		return "", nil, nil
	case bearer.SameHost(to, s.base), to.User != nil: // our credentials are needed there
		return "", nil, nil
	case to.Scheme != "https" && (to.Scheme != "http" || s.base.Scheme != "http"):
		return "", nil, nil
	}
	return to.String(), nil, nil
}

// Mount implements storage.Storage. Where the upstream does not mount, the blob is copied.
func (s *Storage) Mount(ctx context.Context, from, name string, dgst digest.Digest) error {
	if _, err := s.Stat(ctx, name, dgst); !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	q := url.Values{"mount": {string(dgst)}, "from": {s.prefix + from}}
	res, err := s.do(ctx, request{method: http.MethodPost, name: name, path: "/blobs/uploads/?" + q.Encode(), from: from})
	if err != nil {
		return err
	}
	defer drain(res)
	switch res.StatusCode {
	case http.StatusCreated:
		return nil
	case http.StatusAccepted:
		location, err := s.location(res)
		if err != nil {
			return err
		}
		return s.copyBlob(ctx, from, &upload{storage: s, name: name, at: location, hash: digest.SHA256.Hash()}, dgst)
	}
	return refused("mount of a blob", res, res.Body)
}

// copyBlob sends a blob from one name to another through this process.
func (s *Storage) copyBlob(ctx context.Context, from string, to *upload, dgst digest.Digest) error {
	content, _, err := s.Open(ctx, from, dgst)
	if err != nil {
		return errors.Join(err, to.Cancel(ctx))
	}
	defer func() { _ = content.Close() }()
	if _, err := to.ReadFrom(content); err != nil {
		return errors.Join(err, to.Cancel(ctx))
	}
	return to.Commit(ctx, dgst)
}

// Delete implements storage.Storage.
func (s *Storage) Delete(ctx context.Context, name string, dgst digest.Digest) error {
	return s.delete(ctx, name, "/blobs/"+string(dgst))
}

func (s *Storage) delete(ctx context.Context, name, path string) error {
	res, err := s.do(ctx, request{method: http.MethodDelete, name: name, path: path})
	if err != nil {
		return err
	}
	defer drain(res)
	switch res.StatusCode {
	case http.StatusAccepted, http.StatusOK, http.StatusNoContent, http.StatusNotFound:
		return nil
	case http.StatusMethodNotAllowed, http.StatusBadRequest:
		return storage.ErrUnsupported
	}
	return refused("delete", res, res.Body)
}

// PutManifest implements storage.Manifests.
func (s *Storage) PutManifest(ctx context.Context, name, reference, mediaType string, payload []byte) error {
	res, err := s.do(ctx, request{
		method: http.MethodPut, name: name, path: "/manifests/" + reference, body: payload, header: http.Header{"Content-Type": {mediaType}},
	})
	if err != nil {
		return err
	}
	defer drain(res)
	if res.StatusCode != http.StatusCreated {
		return refused("a manifest", res, res.Body)
	}
	return nil
}

// manifestTypes are all that a manifest may be.
const manifestTypes = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, " +
	"application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json"

// GetManifest implements storage.Manifests.
func (s *Storage) GetManifest(ctx context.Context, name, reference string) ([]byte, string, error) {
	res, err := s.do(ctx, request{method: http.MethodGet, name: name, path: "/manifests/" + reference, header: http.Header{"Accept": {manifestTypes}}})
	if err != nil {
		return nil, "", err
	}
	defer drain(res)
	switch res.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return nil, "", storage.ErrNotFound
	default:
		return nil, "", refused("a manifest", res, res.Body)
	}
	payload, err := io.ReadAll(io.LimitReader(res.Body, maxManifest+1))
	if err != nil {
		return nil, "", unavailable(err)
	}
	if len(payload) > maxManifest {
		return nil, "", fault.New(fault.TooLarge, "The upstream registry's manifest has more than %d bytes.", maxManifest)
	}
	if d := digest.Digest(reference); d.Validate() == nil && d.Algorithm().FromBytes(payload) != d {
		return nil, "", fault.New(fault.Unavailable, "The upstream registry answers with other bytes than the digest's.")
	}
	return payload, res.Header.Get("Content-Type"), nil
}

// DeleteManifest implements storage.Manifests.
func (s *Storage) DeleteManifest(ctx context.Context, name, reference string) error {
	return s.delete(ctx, name, "/manifests/"+reference)
}

// openAt asks for a blob's bytes from a place on. Where the upstream does not do ranges, it reads up to there.
func (s *Storage) openAt(ctx context.Context, name string, dgst digest.Digest, at, size int64) (io.ReadCloser, error) {
	q := request{method: http.MethodGet, name: name, path: "/blobs/" + string(dgst)}
	if at > 0 {
		q.header = http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", at, size-1)}} // not all registries know a range without an end
	}
	res, err := s.do(ctx, q)
	if err != nil {
		return nil, err
	}
	switch {
	case res.StatusCode == http.StatusPartialContent && at > 0, res.StatusCode == http.StatusOK && at == 0:
		return res.Body, nil
	case res.StatusCode == http.StatusOK:
		if _, err := io.CopyN(io.Discard, res.Body, at); err != nil {
			drain(res)
			return nil, unavailable(err)
		}
		return res.Body, nil
	case res.StatusCode == http.StatusNotFound:
		drain(res)
		return nil, storage.ErrNotFound
	}
	defer drain(res)
	return nil, refused("a blob", res, res.Body)
}
