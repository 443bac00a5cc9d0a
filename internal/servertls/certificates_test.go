package servertls_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// issued is a certificate with its key, and both in PEM form.
type issued struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	certPEM     []byte
	keyPEM      []byte
}

// validity is the time for which certificates are valid from now on.
const validity = 24 * time.Hour

// issue returns a certificate for 127.0.0.1 and for clients, issued by an authority, or an authority if by is nil.
func issue(t *testing.T, name string, by *issued, notAfter time.Time) *issued {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: notAfter,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: by == nil, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.certificate, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return &issued{
		certificate: certificate, key: key, certPEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		keyPEM: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}),
	}
}

// newAuthority returns an authority.
func newAuthority(t *testing.T, name string) *issued {
	return issue(t, name, nil, time.Now().Add(validity))
}

// newCertificate returns a certificate of an authority.
func newCertificate(t *testing.T, name string, by *issued) *issued {
	return issue(t, name, by, time.Now().Add(validity))
}

// pair returns the certificate for a TLS configuration.
func (i *issued) pair() tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{i.certificate.Raw}, PrivateKey: i.key, Leaf: i.certificate}
}

// files are the paths of the files of a server.
type files struct{ cert, key, ca string }

// newFiles writes the files of a server into a directory.
func newFiles(t *testing.T, server, authority *issued) files {
	t.Helper()
	dir := t.TempDir()
	f := files{cert: filepath.Join(dir, "tls.crt"), key: filepath.Join(dir, "tls.key"), ca: filepath.Join(dir, "ca.crt")}
	f.writePair(t, server)
	write(t, f.ca, authority.certPEM)
	return f
}

// writePair replaces the certificate and the key.
func (f files) writePair(t *testing.T, server *issued) {
	t.Helper()
	write(t, f.cert, server.certPEM)
	write(t, f.key, server.keyPEM)
}

// write replaces a file at once.
func write(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := errors.Join(os.WriteFile(path+".new", text, 0o600), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
}
