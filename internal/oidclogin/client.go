package oidclogin

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"time"
)

// requestTimeout limits one request to the server or to the issuer.
const requestTimeout = 30 * time.Second

// Client returns a client that trusts the certificates in a PEM file, which may be empty, in addition to the system's.
func Client(caFile string) (*http.Client, error) {
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, err
		}
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("no PEM certificate in %s", caFile)
		}
	}
	return &http.Client{Timeout: requestTimeout, Transport: &http.Transport{
		Proxy:           http.ProxyFromEnvironment,
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true,
	}}, nil
}

// browsers are the programs that open a URL, by operating system.
var browsers = map[string][]string{
	"darwin": {"open"}, "windows": {"rundll32", "url.dll,FileProtocolHandler"}, "linux": {"xdg-open"},
}

// OpenBrowser opens a URL in the person's browser.
func OpenBrowser(ctx context.Context, url string) error {
	command := browsers[runtime.GOOS]
	if command == nil {
		return errors.New("unknown operating system")
	}
	arguments := append(append([]string{}, command[1:]...), url)
	started := exec.CommandContext(context.WithoutCancel(ctx), command[0], arguments...)
	if err := started.Start(); err != nil {
		return err
	}
	go func() { _ = started.Wait() }() // some programs end with the browser
	return nil
}
