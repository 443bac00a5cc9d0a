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
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/registryclient"
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
	PasswordFile       string   // whose first line is the password, in the place of Password; it is read again each time, and may change
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
	handOn *http.Client // follows no redirect that a client of ours can follow
	auth   *registryclient.Authority
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
	}
	s.handOn = &http.Client{Transport: transport, CheckRedirect: s.leaveToClients}
	if o.Token != "" {
		s.auth = registryclient.Fixed(base, o.Token)
		return s, nil
	}
	s.auth = registryclient.New(base, s.client, o.Username, o.Password, func(realm *url.URL) bool {
		return (realm.Scheme == "https" || base.Scheme == "http") && registryclient.OneOf(realm, o.TokenHosts)
	})
	if o.PasswordFile != "" {
		s.auth.Password = func() (string, error) { return readPassword(o.PasswordFile) }
		if _, err := s.auth.Password(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// maxPassword is how many bytes of a password file are read: some clouds' passwords are long.
const maxPassword = 64 << 10

// readPassword returns the first line of the file with the upstream's password.
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

// ReadFrom implements io.ReaderFrom: bodies of a known length come this way, once their first bytes have gone with the header.
func (c *impatient) ReadFrom(r io.Reader) (int64, error) { return storage.Move(c, r) }

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
	res, err := s.fetch(ctx, name, dgst, storage.Part{Last: -1}, false)
	if err != nil {
		return nil, 0, err
	}
	if res.ContentLength < 0 {
		_ = res.Body.Close()
		return nil, 0, unavailable(errors.New("GET of a blob says no length"))
	}
	return s.reader(ctx, name, dgst, res.ContentLength, res.Body, 0), res.ContentLength, nil
}

// OpenPart opens a blob where a part of it is to be read, of which the upstream is asked for no more. Another part can be read too, as after Open. The size need not be
// the upstream's: it counts where the upstream says none.
func (s *Storage) OpenPart(ctx context.Context, name string, dgst digest.Digest, part storage.Part) (io.ReadSeekCloser, error) {
	_, content, err := s.openPart(ctx, name, dgst, part, false)
	return content, err
}

// Locate is OpenPart, but where the upstream redirects to another host it returns where, in the place of the content: there anybody gets the bytes who knows the URL, for as long
// as the upstream has it so. Redirects within the upstream's host, to a user's URL or from https to http are followed here.
func (s *Storage) Locate(ctx context.Context, name string, dgst digest.Digest, part storage.Part) (at string, content io.ReadSeekCloser, err error) {
	return s.openPart(ctx, name, dgst, part, true)
}

func (s *Storage) openPart(ctx context.Context, name string, dgst digest.Digest, part storage.Part, handOn bool) (string, io.ReadSeekCloser, error) {
	res, err := s.fetch(ctx, name, dgst, part, handOn)
	if err != nil {
		return "", nil, err
	}
	if to, err := res.Location(); err == nil && res.StatusCode >= 300 {
		drain(res)
		return to.String(), nil, nil
	}
	size := part.Size
	if res.StatusCode == http.StatusOK && res.ContentLength >= 0 {
		size = res.ContentLength
	}
	body, err := skip(res, part.First)
	if err != nil {
		return "", nil, err
	}
	return "", s.reader(ctx, name, dgst, size, body, part.First), nil
}

// reader is a blob whose body is open at a place.
func (s *Storage) reader(ctx context.Context, name string, dgst digest.Digest, size int64, body io.ReadCloser, at int64) io.ReadSeekCloser {
	return storage.NewReader(size, func(at int64) (io.ReadCloser, error) {
		res, err := s.fetch(ctx, name, dgst, storage.Part{Size: size, First: at, Last: size - 1}, false)
		if err != nil {
			return nil, err
		}
		return skip(res, at)
	}, body, at)
}

// fetch asks for a part of a blob and returns the answer: 200, 206 where a part was asked for or, with handOn, a redirect that goes to the client.
func (s *Storage) fetch(ctx context.Context, name string, dgst digest.Digest, part storage.Part, handOn bool) (*http.Response, error) {
	q := request{method: http.MethodGet, name: name, path: "/blobs/" + string(dgst), handOn: handOn}
	if !part.Whole() {
		q.header = http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", part.First, part.Last)}} // not all registries know a range without an end
	}
	res, err := s.do(ctx, q)
	if err != nil {
		return nil, err
	}
	switch res.StatusCode {
	case http.StatusOK:
		return res, nil
	case http.StatusPartialContent:
		from := fmt.Sprintf("bytes %d-", part.First)
		if got := res.Header.Get("Content-Range"); !part.Whole() && (got == "" || strings.HasPrefix(got, from)) {
			return res, nil
		}
		_ = res.Body.Close()
		return nil, unavailable(errors.New("it sends another part of a blob than it was asked for"))
	case http.StatusNotFound:
		drain(res)
		return nil, storage.ErrNotFound
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		if _, err := res.Location(); handOn && err == nil {
			return res, nil
		}
	}
	defer drain(res)
	return nil, refused("a blob", res, res.Body)
}

// skip returns the bytes of an answer from a place of the blob on. An upstream that does not do ranges sends those before it too.
func skip(res *http.Response, at int64) (io.ReadCloser, error) {
	if res.StatusCode == http.StatusOK {
		if _, err := io.CopyN(io.Discard, res.Body, at); err != nil {
			_ = res.Body.Close()
			return nil, unavailable(err)
		}
	}
	return res.Body, nil
}

// Mount implements storage.Storage. Where the upstream does not mount, the blob is copied.
func (s *Storage) Mount(ctx context.Context, from, name string, dgst digest.Digest) error {
	res, err := s.do(ctx, request{method: http.MethodPost, name: name, path: "/blobs/uploads/", from: from, mount: dgst})
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
		to := &upload{storage: s, name: name, at: location, hash: digest.SHA256.Hash()}
		if _, err := s.Stat(ctx, name, dgst); !errors.Is(err, storage.ErrNotFound) { // it is there already, and never mind the upload
			return errors.Join(err, to.Cancel(ctx))
		}
		return s.copyBlob(ctx, from, to, dgst)
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
	return s.getManifest(ctx, name, reference, []string{manifestTypes})
}

// getManifest is GetManifest with Accept headers of the caller's.
func (s *Storage) getManifest(ctx context.Context, name, reference string, accept []string) ([]byte, string, error) {
	res, err := s.do(ctx, request{method: http.MethodGet, name: name, path: "/manifests/" + reference, header: http.Header{"Accept": accept}})
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
