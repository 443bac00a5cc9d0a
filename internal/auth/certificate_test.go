package auth_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/pulp"
)

// certify returns a self-signed certificate with the names of the template.
func certify(t *testing.T, template x509.Certificate) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber, template.NotAfter = big.NewInt(0x2a), time.Now().Add(time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// withCertificate returns a request with a client certificate, verified or not.
func withCertificate(t *testing.T, c *x509.Certificate, verified bool) *http.Request {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v2/", nil)
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{c}}
	if verified {
		r.TLS.VerifiedChains = [][]*x509.Certificate{{c}}
	}
	return r
}

func uris(t *testing.T, texts ...string) (all []*url.URL) {
	t.Helper()
	for _, text := range texts {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, u)
	}
	return all
}

// certificateUsers are accounts of all kinds and states.
func certificateUsers(t *testing.T) accounts {
	return accounts{
		"alice":    {ID: 1, Username: "alice", Hash: cheap(t, "secret"), Active: true, Kind: pulp.LocalUser},
		"robot":    {ID: 2, Username: "robot", Active: true, Kind: pulp.Robot},
		"disabled": {ID: 3, Username: "disabled", Kind: pulp.LocalUser},
		"removed":  {ID: 4, Username: "removed", Active: true, Kind: pulp.ExternalUser, Source: "ldap"},
		"oidc:ci":  {ID: 5, Username: "oidc:ci", Active: true, Kind: pulp.RuleIdentity},
	}
}

// TestCertificatesNameAccounts verifies the account of a certificate for each field and pattern. See
// hostile-inputs.md#foreign-certificate.
func TestCertificatesNameAccounts(t *testing.T) {
	t.Parallel()
	users := certificateUsers(t)
	cn := func(names ...string) x509.Certificate {
		var c x509.Certificate
		for _, name := range names {
			c.Subject.ExtraNames = append(c.Subject.ExtraNames, pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: name})
		}
		return c
	}
	for name, c := range map[string]struct {
		field    auth.CertificateField
		pattern  string
		template x509.Certificate
		want     string
	}{
		"common name":            {auth.CommonName, "*", cn("alice"), "alice"},
		"robot":                  {auth.CommonName, "*", cn("robot"), "robot"},
		"two common names":       {auth.CommonName, "*", cn("alice", "robot"), ""},
		"no common name":         {auth.CommonName, "*", x509.Certificate{Subject: pkix.Name{Organization: []string{"alice"}}}, ""},
		"other case":             {auth.CommonName, "*", cn("Alice"), ""},
		"space":                  {auth.CommonName, "*", cn("alice "), ""},
		"NUL":                    {auth.CommonName, "*", cn("alice\x00.example"), ""},
		"disabled":               {auth.CommonName, "*", cn("disabled"), ""},
		"removed":                {auth.CommonName, "*", cn("removed"), ""},
		"rule":                   {auth.CommonName, "*", cn("oidc:ci"), ""},
		"unknown":                {auth.CommonName, "*", cn("bob"), ""},
		"suffix":                 {auth.CommonName, "*.people", cn("alice.people"), "alice"},
		"suffix only":            {auth.CommonName, "*.people", cn(".people"), ""},
		"DNS name as CN":         {auth.CommonName, "*", x509.Certificate{DNSNames: []string{"alice"}}, ""},
		"DNS name":               {auth.DNSName, "*.clients.example", x509.Certificate{DNSNames: []string{"alice.clients.example", "other.example"}}, "alice"},
		"two DNS names":          {auth.DNSName, "*.a", x509.Certificate{DNSNames: []string{"alice.a", "robot.a"}}, ""},
		"CN as DNS name":         {auth.DNSName, "*", cn("alice"), ""},
		"mail":                   {auth.EmailAddress, "*@example.com", x509.Certificate{EmailAddresses: []string{"alice@example.com"}}, "alice"},
		"mail of another domain": {auth.EmailAddress, "*@example.com", x509.Certificate{EmailAddresses: []string{"alice@example.com.evil"}}, ""},
		"URI":                    {auth.URI, "spiffe://example.com/robot/*", x509.Certificate{URIs: uris(t, "spiffe://example.com/robot/robot")}, "robot"},
		"URI of another domain":  {auth.URI, "spiffe://example.com/robot/*", x509.Certificate{URIs: uris(t, "spiffe://evil.com/robot/robot")}, ""},
		"deeper URI":             {auth.URI, "spiffe://example.com/robot/*", x509.Certificate{URIs: uris(t, "spiffe://example.com/robot/x/robot")}, ""},
	} {
		a := auth.New(users, slog.New(slog.DiscardHandler))
		a.AcceptCertificates(auth.CertificateNames{Field: c.field, Pattern: c.pattern})
		who, err := a.Basic(withCertificate(t, certify(t, c.template), true))
		got := ""
		if who != nil {
			got = who.Account.Username
		}
		if err != nil || got != c.want {
			t.Errorf("%s: account %q, %v, want %q", name, got, err, c.want)
		}
		if who != nil && !strings.HasPrefix(who.Identity, "certificate 2a of ") {
			t.Errorf("%s: identity %q", name, who.Identity)
		}
	}
}

// TestCertificatesComeSecond verifies that credentials take precedence over a certificate, that an unverified
// certificate authenticates nobody, and that certificates without an account are logged once.
func TestCertificatesComeSecond(t *testing.T) {
	t.Parallel()
	users := certificateUsers(t)
	var log strings.Builder
	a := auth.New(users, slog.New(slog.NewTextHandler(&log, nil)))
	robot := certify(t, x509.Certificate{Subject: pkix.Name{CommonName: "robot"}})
	if who, err := a.Basic(withCertificate(t, robot, true)); who != nil || err != nil {
		t.Errorf("without the setting: %+v, %v", who, err)
	}
	a.AcceptCertificates(auth.CertificateNames{Field: auth.CommonName, Pattern: "*"})
	if who, err := a.Basic(withCertificate(t, robot, false)); who != nil || err != nil {
		t.Errorf("an unverified certificate: %+v, %v", who, err)
	}
	r := withCertificate(t, robot, true)
	r.SetBasicAuth("alice", "secret")
	if who, err := a.Basic(r); err != nil || who == nil || who.Account.Username != "alice" || who.Identity != "" {
		t.Errorf("a password and a certificate: %+v, %v", who, err)
	}
	r.SetBasicAuth("alice", tooLong)
	if who, err := a.Basic(r); err == nil {
		t.Errorf("a wrong password and a certificate: %+v", who)
	}
	log.Reset()
	unknown := certify(t, x509.Certificate{Subject: pkix.Name{CommonName: "bob\x1b[31m"}})
	for range 3 {
		if who, err := a.Basic(withCertificate(t, unknown, true)); who != nil || err != nil {
			t.Errorf("a certificate without an account: %+v, %v", who, err)
		}
	}
	if got := log.String(); strings.Count(got, "requests with a client certificate are anonymous") != 1 ||
		!strings.Contains(got, "there is no such account") || strings.Contains(got, "\x1b") {
		t.Errorf("log: %s", got)
	}
}
