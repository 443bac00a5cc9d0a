// Package servertls provides the TLS configuration of the server. It reloads the certificate and the authorities of
// client certificates when their files change, without interrupting connections.
//
// Files are compared by content, so atomic renames, changes in place and the symbolic links that Kubernetes switches
// are all noticed. Files that cannot be used are logged once, and the server goes on with those that it has.
package servertls

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// defaultInterval is the time between two checks of the files.
	defaultInterval = 10 * time.Second
	// expiryWarning is the longest remaining validity of a certificate for which the log warns. For certificates with
	// a short validity it is a third of that.
	expiryWarning = 14 * 24 * time.Hour
	// warningInterval is the time between two warnings about the same certificate.
	warningInterval = 24 * time.Hour
)

// Options are the files and dependencies of a Reloader.
type Options struct {
	// CertFile and KeyFile are PEM files with the server's certificate, followed by intermediate ones, and its key.
	CertFile, KeyFile string
	// ClientCAFile is a PEM file with the authorities of client certificates. Empty: clients are not asked for one.
	ClientCAFile string
	// ClientCertRequired refuses connections without a client certificate.
	ClientCertRequired bool
	// Interval is the time between two checks of the files; 0: ten seconds.
	Interval time.Duration
	Log      *slog.Logger
}

// Reloader holds the current TLS configuration. It is safe for concurrent use.
type Reloader struct {
	options  Options
	now      func() time.Time
	current  atomic.Pointer[state]
	mu       sync.Mutex // guards the fields below
	pair, ca watched
	warned   time.Time // of the last warning about expiry
}

// state is the result of loading the files.
type state struct {
	config *tls.Config
	pair   tls.Certificate
	chain  []*x509.Certificate // of pair, with its leaf first
	// authorities are the certificates of the client CA file; the keys of roots are their DER forms.
	authorities []*x509.Certificate
	roots       map[string]bool
}

// New loads the files. The error names the file that cannot be used.
func New(ctx context.Context, o Options) (*Reloader, error) {
	if o.Interval == 0 {
		o.Interval = defaultInterval
	}
	r := &Reloader{options: o, now: time.Now, pair: watched{paths: []string{o.CertFile, o.KeyFile}}}
	if o.ClientCAFile != "" {
		r.ca.paths = []string{o.ClientCAFile}
	}
	if err := errors.Join(r.reload(ctx)...); err != nil {
		return nil, err
	}
	r.warnOfExpiry(ctx, r.now())
	return r, nil
}

// Config returns the configuration for a listener. Each connection uses the files that were loaded last.
func (r *Reloader) Config() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return r.current.Load().config, nil },
	}
}

// Expires returns the time at which the first certificate of the server's chain expires.
func (r *Reloader) Expires() time.Time {
	chain := r.current.Load().chain
	first := chain[0].NotAfter
	for _, c := range chain {
		if c.NotAfter.Before(first) {
			first = c.NotAfter
		}
	}
	return first
}

// Run reloads changed files and warns about certificates that expire soon, until ctx ends.
func (r *Reloader) Run(ctx context.Context) {
	tick := time.NewTicker(r.options.Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, err := range r.reload(ctx) {
			r.options.Log.ErrorContext(ctx, "cannot use a changed TLS file; the server goes on with the former one", slog.Any("err", err))
		}
		r.warnOfExpiry(ctx, r.now())
	}
}

// reload loads the files that changed since the last call. It returns an error for each kind of file that changed and
// cannot be used; the former one stays in use.
func (r *Reloader) reload(ctx context.Context) (failed []error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := state{}
	if former := r.current.Load(); former != nil {
		next = *former
	}
	pairChanged, err := r.pair.changed(func(files [][]byte) error {
		pair, chain, err := readPair(files[0], files[1])
		if err == nil {
			next.pair, next.chain = pair, chain
		}
		return err
	})
	if err != nil {
		failed = append(failed, fmt.Errorf("tls.cert_file %s, tls.key_file %s: %w", r.options.CertFile, r.options.KeyFile, err))
	}
	caChanged, err := r.ca.changed(func(files [][]byte) error {
		authorities, err := readAuthorities(files[0])
		if err == nil {
			next.authorities = authorities
		}
		return err
	})
	if err != nil {
		failed = append(failed, fmt.Errorf("tls.client_ca_file %s: %w", r.options.ClientCAFile, err))
	}
	if !pairChanged && !caChanged {
		return failed
	}
	r.warned = time.Time{}
	r.use(next)
	if pairChanged {
		r.logLoaded(ctx, "loaded the TLS certificate", r.options.CertFile, next.chain[0])
	}
	if caChanged {
		for _, c := range next.authorities {
			r.logLoaded(ctx, "loaded an authority of client certificates", r.options.ClientCAFile, c)
		}
	}
	return failed
}

// use makes the configuration for connections from loaded files and stores it.
func (r *Reloader) use(s state) {
	s.config = &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, Certificates: []tls.Certificate{s.pair},
	}
	if r.options.ClientCAFile != "" {
		s.config.ClientAuth, s.config.ClientCAs = tls.VerifyClientCertIfGiven, x509.NewCertPool()
		if r.options.ClientCertRequired {
			s.config.ClientAuth = tls.RequireAndVerifyClientCert
		}
		s.roots = map[string]bool{}
		for _, c := range s.authorities {
			s.config.ClientCAs.AddCert(c)
			s.roots[string(c.Raw)] = true
		}
	}
	r.current.Store(&s)
}

func (r *Reloader) logLoaded(ctx context.Context, text, file string, c *x509.Certificate) {
	r.options.Log.InfoContext(ctx, text, slog.String("file", file), slog.String("subject", c.Subject.String()),
		slog.Any("names", names(c)), slog.Time("expires", c.NotAfter))
}

// names returns the host names and addresses that a certificate is valid for.
func names(c *x509.Certificate) []string {
	all := append([]string{}, c.DNSNames...)
	for _, address := range c.IPAddresses {
		all = append(all, address.String())
	}
	return all
}

// warnOfExpiry logs the certificates that expire soon, once a day.
func (r *Reloader) warnOfExpiry(ctx context.Context, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(r.warned) < warningInterval {
		return
	}
	s := r.current.Load()
	for _, c := range s.chain {
		r.warnOf(ctx, now, r.options.CertFile, c)
	}
	for _, c := range s.authorities {
		r.warnOf(ctx, now, r.options.ClientCAFile, c)
	}
}

// warnOf logs a certificate that expires soon or has expired.
func (r *Reloader) warnOf(ctx context.Context, now time.Time, file string, c *x509.Certificate) {
	remaining := c.NotAfter.Sub(now)
	if remaining >= min(expiryWarning, c.NotAfter.Sub(c.NotBefore)/3) {
		return
	}
	r.warned = now
	text := "a certificate expires soon: replace the file, the server reloads it"
	if remaining < 0 {
		text = "a certificate has expired: replace the file, the server reloads it"
	}
	r.options.Log.WarnContext(ctx, text, slog.String("file", file), slog.String("subject", c.Subject.String()), slog.Time("expires", c.NotAfter))
}

// readPair returns a certificate with its key, and its chain.
func readPair(certificate, key []byte) (pair tls.Certificate, chain []*x509.Certificate, err error) {
	if pair, err = tls.X509KeyPair(certificate, key); err != nil {
		return tls.Certificate{}, nil, err
	}
	for _, der := range pair.Certificate {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return tls.Certificate{}, nil, fmt.Errorf("intermediate certificate: %w", err)
		}
		chain = append(chain, c)
	}
	return pair, chain, nil
}

// readAuthorities returns the certificates of a PEM file.
func readAuthorities(text []byte) (all []*x509.Certificate, err error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil, errors.New("the file contains no certificate in PEM form")
	}
	return all, nil
}

// Handler passes requests on with the certificate chains that are valid now. A connection can outlive its client
// certificate and the authorities that were in use when it began. Without a valid chain, its requests are handled as if
// the client had sent no certificate, or are refused if one is required, and the connection ends.
func (r *Reloader) Handler(next http.Handler) http.Handler {
	if r.options.ClientCAFile == "" {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.TLS == nil || len(q.TLS.PeerCertificates) == 0 {
			next.ServeHTTP(w, q)
			return
		}
		chains := r.validChains(q.TLS.VerifiedChains, r.now())
		if len(chains) == len(q.TLS.VerifiedChains) {
			next.ServeHTTP(w, q)
			return
		}
		connection, changed := *q.TLS, q.WithContext(q.Context())
		connection.VerifiedChains = chains
		changed.TLS = &connection
		if len(chains) == 0 {
			w.Header().Set("Connection", "close") // ends HTTP/2 connections too
			if r.options.ClientCertRequired {
				http.Error(w, "The client certificate is no longer valid.", http.StatusMisdirectedRequest)
				return
			}
			connection.PeerCertificates = nil
		}
		next.ServeHTTP(w, changed)
	})
}

// validChains returns the chains that end in one of the current authorities and in which no certificate has expired.
func (r *Reloader) validChains(chains [][]*x509.Certificate, now time.Time) (valid [][]*x509.Certificate) {
	roots := r.current.Load().roots
	for _, chain := range chains {
		ok := len(chain) > 0 && roots[string(chain[len(chain)-1].Raw)]
		for _, c := range chain {
			ok = ok && !now.After(c.NotAfter)
		}
		if ok {
			valid = append(valid, chain)
		}
	}
	return valid
}
