package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/countersign/countersign/storage"
)

// Bounds of connections to the upstream.
const (
	headerTimeout = time.Minute      // from the end of a request to the headers of its response
	dialTimeout   = 10 * time.Second // for a connection
	tlsTimeout    = 10 * time.Second
	idleConns     = 64
	idleTime      = time.Minute      // of an unused connection
	stallTime     = 75 * time.Second // without a byte in or out; longer than headerTimeout, and than clients of this server may pause
	bufferSize    = 64 << 10         // bytes
)

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
		Proxy: http.ProxyFromEnvironment,
		TLSClientConfig: &tls.Config{
			RootCAs: roots, MinVersion: tls.VersionTLS12,
			InsecureSkipVerify: o.InsecureSkipVerify, //nolint:gosec // the operator's choice
		},
		MaxIdleConnsPerHost:   idleConns,
		DialContext:           dial,
		ReadBufferSize:        bufferSize,
		WriteBufferSize:       bufferSize,
		IdleConnTimeout:       idleTime,
		TLSHandshakeTimeout:   tlsTimeout,
		ResponseHeaderTimeout: headerTimeout,
		DisableCompression:    true, // the bytes must not change
	}, nil
}

// dial returns a connection that fails when it stalls.
func dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &stallingConn{c}, nil
}

// stallingConn is a connection that fails when no byte is read or written for stallTime. A write extends the time for
// the next read too.
type stallingConn struct{ net.Conn }

// Read implements net.Conn.
func (c *stallingConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(stallTime)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

// Write implements net.Conn.
func (c *stallingConn) Write(p []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(stallTime)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// ReadFrom implements io.ReaderFrom. net/http calls it for bodies of a known length.
func (c *stallingConn) ReadFrom(r io.Reader) (int64, error) { return storage.Move(c, r) }
