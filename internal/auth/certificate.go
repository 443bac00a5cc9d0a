package auth

import (
	"context"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

// CertificateField is the field of client certificates that names an account.
type CertificateField string

// The fields. All but the first are subject alternative names.
const (
	CommonName   CertificateField = "cn"
	DNSName      CertificateField = "dns"
	EmailAddress CertificateField = "email"
	URI          CertificateField = "uri"
)

// CertificateNames determine the account of a client certificate.
type CertificateNames struct {
	Field CertificateField
	// Pattern contains one *, which stands for the name of the account: *@example.com.
	Pattern string
}

var commonName = asn1.ObjectIdentifier{2, 5, 4, 3}

// account returns the name of the account of a certificate. It is empty unless exactly one value of the field matches
// the pattern.
func (n CertificateNames) account(c *x509.Certificate) string {
	var values []string
	switch n.Field {
	case CommonName:
		for _, name := range c.Subject.Names {
			if text, ok := name.Value.(string); ok && name.Type.Equal(commonName) {
				values = append(values, text)
			}
		}
	case DNSName:
		values = c.DNSNames
	case EmailAddress:
		values = c.EmailAddresses
	case URI:
		for _, u := range c.URIs {
			values = append(values, u.String())
		}
	}
	before, after, _ := strings.Cut(n.Pattern, "*")
	values = slices.DeleteFunc(slices.Clone(values), func(value string) bool {
		return len(value) <= len(before)+len(after) || !strings.HasPrefix(value, before) || !strings.HasSuffix(value, after)
	})
	if len(values) != 1 || !pulp.ValidText(values[0]) {
		return ""
	}
	return values[0][len(before) : len(values[0])-len(after)]
}

// Limits of the log entries about certificates without an account.
const (
	reportedLife  = 10 * time.Minute // between two entries about one certificate
	reportedLimit = 1000             // certificates; the least recently seen are evicted
)

// certificates authenticates requests by their client certificates.
type certificates struct {
	names    CertificateNames
	reported *lru.Cache[string, time.Time] // the latest log entry about a certificate without an account, by its bytes
}

// AcceptCertificates makes Basic accept client certificates of requests without an Authorization header. Call it before
// the Auth is used.
func (a *Auth) AcceptCertificates(names CertificateNames) {
	reported, err := lru.New[string, time.Time](reportedLimit)
	if err != nil { // the size is a positive constant
		panic(err)
	}
	a.certificates = &certificates{names: names, reported: reported}
}

// byCertificate returns the active account that the verified client certificate of a request names. It is nil if there
// is none: then the request is anonymous.
func (a *Auth) byCertificate(r *http.Request) (*access.Caller, error) {
	if a.certificates == nil || r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return nil, nil
	}
	leaf := r.TLS.VerifiedChains[0][0]
	name := a.certificates.names.account(leaf)
	if name == "" {
		a.reportCertificate(r.Context(), leaf, "the certificate does not have one name for tls.client_identity")
		return nil, nil
	}
	key := principal{username: name}
	known, ok := a.known.Get(key)
	var err error
	if !ok || !known.account.Active { // it may be active again
		known, err = a.known.Read(key, func() (identity, error) { return a.identify(r.Context(), key) })
	}
	u := known.account
	switch {
	case fault.Is(err, fault.NotFound):
		a.reportCertificate(r.Context(), leaf, "there is no such account")
		return nil, nil
	case err != nil:
		return nil, err
	case !u.Active || u.Kind == pulp.RuleIdentity:
		a.reportCertificate(r.Context(), leaf, "the account is disabled, or no person or robot")
		return nil, nil
	}
	return &access.Caller{Account: u, Identity: "certificate " + describe(leaf)}, nil
}

// describe identifies a certificate for the logs.
func describe(c *x509.Certificate) string {
	return fmt.Sprintf("%x of %s", c.SerialNumber, pulp.Printable(c.Issuer.String()))
}

// reportCertificate logs the reason for which a certificate authenticates nobody, at times.
func (a *Auth) reportCertificate(ctx context.Context, c *x509.Certificate, reason string) {
	now := a.now()
	if last, ok := a.certificates.reported.Get(string(c.Raw)); ok && now.Sub(last) < reportedLife {
		return
	}
	a.certificates.reported.Add(string(c.Raw), now)
	a.log.WarnContext(ctx, "requests with a client certificate are anonymous", slog.String("reason", reason),
		slog.String("subject", pulp.Printable(c.Subject.String())), slog.String("certificate", describe(c)))
}
