package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"

	"github.com/countersign/countersign/internal/safefile"
)

// Limits of connections.
const (
	maxConnections = 8           // requests at a time; others wait
	maxIdle        = 2           // connections of the service account that are kept
	idleLife       = time.Minute // since the last use of a connection that is kept
	maxPacket      = 4 << 20     // bytes of one response
	maxPasswordLen = 4 << 10     // bytes of a password file
)

// limitPackets limits the size of responses, which the library reads into memory. Without TLS anybody on the path can
// send them.
var limitPackets = sync.OnceFunc(func() {
	ber.MaxPacketLengthBytes = maxPacket //nolint:reassign // the only way to set it
})

// refusedError is a bind that the directory refused because of the name or the password. It is ErrPassword.
type refusedError struct{ cause error }

// Error returns the answer of the directory, which does not contain the password.
func (e *refusedError) Error() string { return e.cause.Error() }

// Is reports whether target is ErrPassword.
func (e *refusedError) Is(target error) bool { return target == ErrPassword }

// pool connects to a directory. It keeps connections of the service account.
type pool struct {
	o       LDAPOptions
	address string
	tls     *tls.Config
	slots   chan struct{} // one value for each connection in use

	mu     sync.Mutex
	idle   []*connection // the latest used one last
	closed bool
}

// connection is a connection of the service account.
type connection struct {
	*ldap.Conn
	raw  net.Conn
	used time.Time // the end of the last use
}

// discard closes a connection whose state is unknown. Closing the socket first ends reads and writes that would block.
func (c *connection) discard() {
	_ = c.raw.Close()
	_ = c.Close()
}

func newPool(o LDAPOptions) (*pool, error) {
	limitPackets()
	u, err := url.Parse(o.URL)
	if err != nil || u.Hostname() == "" || u.Scheme != "ldap" && u.Scheme != "ldaps" || u.User != nil ||
		strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return nil, fmt.Errorf("ldap.url: want ldaps://HOST[:PORT] or ldap://HOST[:PORT], got %q", o.URL)
	}
	p := &pool{o: o, slots: make(chan struct{}, maxConnections)}
	port := u.Port()
	if port == "" {
		port = map[string]string{"ldap": ldap.DefaultLdapPort, "ldaps": ldap.DefaultLdapsPort}[u.Scheme]
	}
	p.address = net.JoinHostPort(u.Hostname(), port)
	if u.Scheme == "ldaps" && o.StartTLS {
		p.o.StartTLS = false
	}
	if u.Scheme == "ldaps" || o.StartTLS {
		p.tls = &tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12}
		if p.tls.RootCAs, err = roots(o.CAFile); err != nil {
			return nil, err
		}
	}
	if o.PasswordFile != "" {
		_, err = p.password()
	}
	return p, err
}

// roots returns the system's certificates and those of a file; nil, which means the system's, without a file.
func roots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	all, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("ldap.ca_file: %w", err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("ldap.ca_file: %w", err)
	}
	if !all.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("ldap.ca_file: %s contains no certificate in PEM", file)
	}
	return all, nil
}

// password returns the password of the service account.
func (p *pool) password() (string, error) {
	if p.o.PasswordFile == "" {
		return p.o.Password, nil
	}
	text, _, err := safefile.ReadSecret(p.o.PasswordFile, "file of ldap.password_file", maxPasswordLen)
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	line = strings.TrimSuffix(line, "\r")
	if line == "" {
		return "", errors.New("the first line of the file of ldap.password_file is empty: write the password there")
	}
	return line, nil
}

// search returns the entries that match a request. A kept connection that turns out to be broken is replaced once.
func (p *pool) search(ctx context.Context, request *ldap.SearchRequest) ([]*ldap.Entry, error) {
	if err := p.acquire(ctx); err != nil {
		return nil, err
	}
	defer p.release()
	if c := p.take(); c != nil {
		entries, err := p.searchOn(ctx, c, request)
		if err == nil || isAnswer(err) || ctx.Err() != nil {
			return entries, err
		}
	}
	c, err := p.connect(ctx)
	if err != nil {
		return nil, err
	}
	if err := p.bindService(ctx, c); err != nil {
		c.discard()
		return nil, err
	}
	return p.searchOn(ctx, c, request)
}

// searchOn searches on a connection and keeps it, if it is in a known state afterwards.
func (p *pool) searchOn(ctx context.Context, c *connection, request *ldap.SearchRequest) ([]*ldap.Entry, error) {
	result, err := within(ctx, c, func() (*ldap.SearchResult, error) { return c.Search(request) })
	if err != nil && !isAnswer(err) || ctx.Err() != nil {
		c.discard()
		return nil, errors.Join(err, ctx.Err())
	}
	p.keep(c)
	if err != nil {
		return nil, err
	}
	return result.Entries, nil
}

// bindService authenticates a connection as the service account.
func (p *pool) bindService(ctx context.Context, c *connection) error {
	if p.o.BindDN == "" {
		return nil
	}
	password, err := p.password()
	if err != nil {
		return err
	}
	if _, err := within(ctx, c, func() (any, error) { return nil, c.Bind(p.o.BindDN, password) }); err != nil {
		return fmt.Errorf("bind as ldap.bind_dn (%s): %w", p.o.BindDN, err)
	}
	return nil
}

// bindOnce verifies a password by a bind on a new connection, which is closed afterwards: no other request ever runs
// with a person's rights. The error is ErrPassword if the directory refuses the credentials.
func (p *pool) bindOnce(ctx context.Context, dn, password string) error {
	if err := p.acquire(ctx); err != nil {
		return err
	}
	defer p.release()
	c, err := p.connect(ctx)
	if err != nil {
		return err
	}
	defer c.discard()
	_, err = within(ctx, c, func() (any, error) { return nil, c.Bind(dn, password) })
	for _, code := range []uint16{
		ldap.LDAPResultInvalidCredentials, ldap.LDAPResultNoSuchObject, ldap.LDAPResultInappropriateAuthentication,
		ldap.LDAPResultInvalidDNSyntax,
		// Locked and expired accounts, depending on the server.
		ldap.LDAPResultConstraintViolation, ldap.LDAPResultUnwillingToPerform, ldap.LDAPResultInsufficientAccessRights,
	} {
		if ldap.IsErrorWithCode(err, code) {
			return &refusedError{cause: err}
		}
	}
	return err
}

// within runs a request and closes the connection when ctx ends before it does.
func within[T any](ctx context.Context, c *connection, request func() (T, error)) (T, error) {
	stop := context.AfterFunc(ctx, func() { _ = c.raw.Close() })
	defer stop()
	return request()
}

// isAnswer reports whether an error is a result that the directory sent, so that the connection works.
func isAnswer(err error) bool {
	e, ok := errors.AsType[*ldap.Error](err)
	return ok && e.ResultCode < ldap.ErrorNetwork && e.Packet != nil
}

// connect opens a connection, encrypted as configured and not authenticated.
func (p *pool) connect(ctx context.Context) (*connection, error) {
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", p.address)
	if err != nil {
		return nil, err
	}
	stream := raw
	if p.tls != nil && !p.o.StartTLS {
		encrypted := tls.Client(raw, p.tls)
		if err := encrypted.HandshakeContext(ctx); err != nil {
			_ = raw.Close()
			return nil, err
		}
		stream = encrypted
	}
	c := &connection{Conn: ldap.NewConn(stream, p.tls != nil && !p.o.StartTLS), raw: raw}
	c.SetTimeout(p.o.Timeout)
	c.Start()
	if p.o.StartTLS {
		if _, err := within(ctx, c, func() (any, error) { return nil, c.StartTLS(p.tls.Clone()) }); err != nil {
			c.discard()
			return nil, fmt.Errorf("StartTLS: %w", err)
		}
	}
	return c, nil
}

// acquire waits until fewer than maxConnections are in use.
func (p *pool) acquire(ctx context.Context) error {
	select {
	case p.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *pool) release() { <-p.slots }

// take removes the latest used idle connection from the pool. It returns nil if there is none.
func (p *pool) take() *connection {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.idle) > 0 {
		last := len(p.idle) - 1
		c := p.idle[last]
		p.idle = p.idle[:last]
		if !c.IsClosing() && time.Since(c.used) < idleLife {
			return c
		}
		c.discard()
	}
	return nil
}

// keep returns a connection to the pool, or closes it.
func (p *pool) keep(c *connection) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.idle) >= maxIdle || c.IsClosing() {
		c.discard()
		return
	}
	c.used = time.Now()
	p.idle = append(p.idle, c)
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, c := range p.idle {
		c.discard()
	}
	p.idle = nil
}
