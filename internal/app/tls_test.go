package app_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/app"
	"github.com/countersign/countersign/internal/app/apptest"
	"github.com/countersign/countersign/internal/eventually"
)

// certificate writes a self-signed certificate for 127.0.0.1 and its key, which other users can read.
func certificate(t *testing.T) (certFile, keyFile string, roots *x509.CertPool) {
	t.Helper()
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	return certFile, keyFile, writeCertificate(t, certFile, keyFile)
}

// writeCertificate writes a new certificate and its key and returns a pool with it.
func writeCertificate(t *testing.T, certFile, keyFile string) (roots *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for file, text := range map[string][]byte{
		certFile: public, keyFile: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}),
	} {
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(public)
	return roots
}

// TestServeTLS verifies that a server with a certificate serves HTTP/2 over TLS only, warns about a key that other users
// can read, uses a new certificate without a restart, and stops without an error.
func TestServeTLS(t *testing.T) {
	t.Parallel()
	certFile, keyFile, roots := certificate(t)
	c := apptest.Load(t, "TLS_CERT_FILE="+certFile, "TLS_KEY_FILE="+keyFile)
	if err := os.Chmod(keyFile, 0o644); err != nil {
		t.Fatal(err)
	}
	a, log := apptest.New(c)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended, out := make(chan error, 1), &apptest.Buffer{}
	go func() { ended <- a.Serve(ctx, app.Greeting{Out: out, Command: "countersign"}) }()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	get := func(scheme string) (status, protocol int) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, scheme+"://"+c.Listen+"/v2/", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.SetBasicAuth(app.AdminName, apptest.AdminPassword)
		response, err := client.Do(r)
		if err != nil {
			return 0, 0
		}
		_ = response.Body.Close()
		return response.StatusCode, response.ProtoMajor
	}
	eventually.True(t, time.Minute, func() bool { status, _ := get("https"); return status == http.StatusOK }, "the server answers")
	if _, protocol := get("https"); protocol != 2 {
		t.Errorf("the server answers with HTTP/%d, want 2", protocol)
	}
	if status, _ := get("http"); status != http.StatusBadRequest {
		t.Errorf("a request without TLS: status %d, want 400", status)
	}
	if !strings.Contains(log.String(), "setting=tls.key_file") {
		t.Errorf("no warning about a readable key:\n%s", log)
	}
	if strings.Contains(out.String(), "--tls-verify=false") || !strings.Contains(out.String(), "https://") {
		t.Errorf("the greeting is not for https:\n%s", out)
	}
	transport.CloseIdleConnections()
	transport.TLSClientConfig.RootCAs = writeCertificate(t, certFile, keyFile)
	eventually.True(t, time.Minute, func() bool { status, _ := get("https"); return status == http.StatusOK }, "the new certificate is in use")
	stop()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("Serve = %v, want nil", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the server does not stop")
	}
}

// TestServeClientCertificates verifies that a server requires client certificates if it is told to, and sends
// Strict-Transport-Security.
func TestServeClientCertificates(t *testing.T) {
	t.Parallel()
	certFile, keyFile, roots := certificate(t)
	clientCert, clientKey, _ := certificate(t)
	c := apptest.Load(t, "TLS_CERT_FILE="+certFile, "TLS_KEY_FILE="+keyFile, "TLS_CLIENT_CA_FILE="+clientCert,
		"TLS_CLIENT_AUTH=required", "TLS_HSTS=24h", "TLS_REQUIRED=true")
	a, log := apptest.New(c)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Serve(ctx, app.Greeting{Out: &apptest.Buffer{}, Command: "countersign"}) }()
	defer func() { stop(); <-ended }()
	get := func(certificates ...tls.Certificate) (*http.Response, error) {
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12, Certificates: certificates}}
		defer transport.CloseIdleConnections()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+c.Listen+"/v2/", nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := (&http.Client{Transport: transport}).Do(r)
		if err == nil {
			_ = response.Body.Close()
		}
		return response, err
	}
	pair, err := tls.LoadX509KeyPair(clientCert, clientKey)
	if err != nil {
		t.Fatal(err)
	}
	var response *http.Response
	eventually.NoError(t, time.Minute, func() (err error) {
		response, err = get(pair)
		return err
	}, "the server answers:\n%s", log)
	if got := response.Header.Get("Strict-Transport-Security"); response.StatusCode != http.StatusUnauthorized || got != "max-age=86400" {
		t.Errorf("status %d with Strict-Transport-Security %q, want 401 with max-age=86400", response.StatusCode, got)
	}
	if response, err := get(); err == nil {
		t.Errorf("a request without a certificate: status %d, want a refused connection", response.StatusCode)
	}
}

// TestPlainHTTP verifies that a server warns if clients send passwords over the network in plain text, and that
// tls.required makes it refuse to start before it changes anything.
func TestPlainHTTP(t *testing.T) {
	t.Parallel()
	c := apptest.Load(t)
	_, port, err := net.SplitHostPort(c.Listen)
	if err != nil {
		t.Fatal(err)
	}
	c.TLS.Required = true
	if err := apptest.Start(t, c).Stop(t); err != nil {
		t.Errorf("Serve on a loopback address with tls.required = %v", err)
	}
	required := apptest.Load(t)
	required.Listen, required.TLS.Required = ":"+port, true
	a, _ := apptest.New(required)
	if err := a.Serve(t.Context(), app.Greeting{Out: &apptest.Buffer{}}); err == nil || !strings.Contains(err.Error(), "tls.required") {
		t.Errorf("Serve of plain HTTP with tls.required = %v, want an error with the setting", err)
	}
	if entries, err := os.ReadDir(required.Data); err != nil || len(entries) > 0 {
		t.Errorf("the refused start left %v, %v", entries, err)
	}
	c.TLS.Required, c.Listen = false, "0.0.0.0:"+port
	a, log := apptest.New(c)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Serve(ctx, app.Greeting{Out: &apptest.Buffer{}}) }()
	eventually.True(t, time.Minute, func() bool { return strings.Contains(log.String(), "in plain text") }, "a warning:\n%s", log)
	stop()
	<-ended
}
