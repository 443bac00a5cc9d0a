package redisqueue_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/tasks/redisqueue"
)

const secret = "s3cr3t/with:odd@parts"

func TestPassword(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	users := fmt.Sprintf("user default on >%[1]s ~* &* +@all\n"+
		"user pusher on >%[1]s ~* &* +@all\n"+
		"user nochannels on >%[1]s ~* resetchannels +@all\n", secret)
	s.args = append(s.args, "--aclfile", path(t, "users.acl", []byte(users)))
	s.start(t)
	with := func(user, password string) *redisqueue.Queue {
		u := url.URL{Scheme: "redis", Host: s.addr(), User: url.UserPassword(user, password)}
		return open(t, redisqueue.Options{URL: u.String()})
	}
	for _, user := range []string{"", "default", "pusher"} {
		q := with(user, secret)
		wantPing(t, q)
		push(t, q, "a")
		wantPop(t, q, "a")
	}
	for name, q := range map[string]*redisqueue.Queue{
		"no password":           open(t, redisqueue.Options{URL: s.url()}),
		"wrong password":        with("pusher", "not the "+secret),
		"user without channels": with("nochannels", secret),
	} {
		err := q.Ping(t.Context())
		if err == nil {
			t.Errorf("%s: Ping succeeded", name)
			continue
		}
		if strings.Contains(err.Error(), secret) {
			t.Errorf("%s: Ping = %v", name, err)
		}
		if _, err := q.Pop(t.Context(), time.Hour); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: Pop = %v", name, err)
		}
	}
}

// TestErrorsDoNotContainThePassword uses a server that repeats the password in its error messages.
func TestErrorsDoNotContainThePassword(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for r := bufio.NewReader(c); ; {
					line, err := r.ReadString('\n')
					if err != nil {
						return
					}
					if strings.HasPrefix(line, "*") {
						fmt.Fprintf(c, "-ERR unknown command 'AUTH', with args beginning with: '%s'\r\n", secret)
					}
				}
			}()
		}
	}()
	u := url.URL{Scheme: "redis", Host: l.Addr().String(), User: url.UserPassword("", secret)}
	q := open(t, redisqueue.Options{URL: u.String()})
	for _, err := range []error{q.Ping(t.Context()), q.Push(t.Context(), "a")} {
		if err == nil || strings.Contains(err.Error(), secret) || !strings.Contains(err.Error(), "***") {
			t.Errorf("error = %v, want one without the password", err)
		}
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	cert, key, roots := selfSigned(t)
	s := newServer(t)
	s.args = append(s.args, "--port", "0", "--tls-port", fmt.Sprint(s.port), "--tls-auth-clients", "no",
		"--tls-cert-file", path(t, "cert.pem", cert), "--tls-key-file", path(t, "key.pem", key))
	s.start(t)
	address := "rediss://" + s.addr()
	q := open(t, redisqueue.Options{URL: address, TLS: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}})
	wantPing(t, q)
	push(t, q, "a")
	wantPop(t, q, "a")
	canceled := watch(t, q, "a")

	stranger := open(t, redisqueue.Options{URL: address})
	if err := stranger.Ping(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("Ping with the system's roots = %v, want an error about the certificate", err)
	}

	// A restart of the server breaks every idle connection. Operations must not fail because of them.
	for range 3 {
		waiting := make([]<-chan popped, 12)
		for i := range waiting {
			waiting[i] = popping(t.Context(), q)
		}
		settle()
		s.kill()
		for _, got := range waiting {
			<-got
		}
		s.start(t)
		wantPing(t, q)
		push(t, q, "a", "b", "c")
		wantPop(t, q, "a")
		wantPop(t, q, "b")
		wantPop(t, q, "c")
	}
	if err := q.Cancel(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	wantCanceled(t, canceled)
}

func selfSigned(t *testing.T) (cert, key []byte, roots *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(cert)
	return cert, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), roots
}

func TestOptions(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]redisqueue.Options{
		"no URL":               {},
		"no scheme":            {URL: "localhost:6379"},
		"another scheme":       {URL: "https://user:" + secret + "@localhost"},
		"a socket":             {URL: "unix:///run/redis.sock"},
		"no host":              {URL: "redis:///1"},
		"a password unescaped": {URL: "redis://user:" + secret + "@localhost:6379/0"},
		"an unescaped slash":   {URL: "redis://user:123/" + secret + "@localhost:6379/0"},
		"an invalid port":      {URL: "redis://user:x@localhost:" + secret},
		"a word as database":   {URL: "redis://localhost/" + "s3cr3t"},
		"parameters":           {URL: "redis://localhost/0?password=" + "s3cr3t"},
		"a control character":  {URL: "redis://user:s3cr3t\x7f@localhost"},
		"TLS for no TLS":       {URL: "redis://localhost", TLS: &tls.Config{MinVersion: tls.VersionTLS12}},
		"braces":               {URL: "redis://localhost", Prefix: "{a}"},
		"a cluster's database": {URL: "redis://localhost/1", Cluster: true},
	} {
		q, err := redisqueue.New(t.Context(), o)
		if err == nil {
			q.Close()
			t.Errorf("%s: New succeeded", name)
		} else if strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%s: New = %v", name, err)
		}
	}
}
