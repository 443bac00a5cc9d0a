package mirror_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/mirror"
	"github.com/countersign/countersign/internal/pulp"
)

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

const secret = "correct-horse"

// open opens the remote at a URL with the credentials robot and secret, after the edits.
func open(t *testing.T, url string, o mirror.Options, edits ...func(*pulp.Remote)) *mirror.Registry {
	t.Helper()
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	user, password, none := "robot", secret, int64(0)
	r := pulp.Remote{
		Name: "r", URL: url, UpstreamName: "src/app", Connection: pulp.Connection{TLSValidation: true, MaxRetries: &none},
		Secrets: pulp.RemoteSecrets{Username: &user, Password: &password},
	}
	for _, edit := range edits {
		edit(&r)
	}
	g, err := mirror.New(o).Open(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return g
}

// open127 does the same as open with a network that allows loopback addresses.
func open127(t *testing.T, url string, edits ...func(*pulp.Remote)) *mirror.Registry {
	t.Helper()
	return open(t, url, mirror.Options{AllowPrivate: loopback}, edits...)
}

// witness is a server that must not receive credentials. It records those of its requests.
type witness struct {
	*httptest.Server
	mu    sync.Mutex
	asked int      // requests
	told  []string // headers with credentials
}

func newWitness(t *testing.T, answer http.HandlerFunc) *witness {
	t.Helper()
	w := &witness{}
	w.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		w.asked++
		for _, h := range []string{"Authorization", "Cookie", "X-Token", "Proxy-Authorization"} {
			if v := r.Header.Get(h); v != "" {
				w.told = append(w.told, h+": "+v)
			}
		}
		w.mu.Unlock()
		if answer != nil {
			answer(rw, r)
		}
	}))
	t.Cleanup(w.Close)
	return w
}

// check reports an error if the server has received credentials, or requests other than asked says.
func (w *witness) check(t *testing.T, asked bool) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.told) > 0 || asked != (w.asked > 0) {
		t.Errorf("the other host got %d requests with the credentials %v", w.asked, w.told)
	}
}

// ptr returns a pointer to a value.
func ptr[T any](v T) *T { return &v }

func pemOf(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// clientPair returns a client certificate and its key in PEM.
func clientPair(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mirror"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	bare, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pemOf("CERTIFICATE", der), pemOf("PRIVATE KEY", bare)
}

// tlsServer returns a server that asks for client certificates, its own certificate in PEM, and the number of client
// certificates that it has received.
func tlsServer(t *testing.T, answer http.HandlerFunc) (s *httptest.Server, ca string, shown *atomic.Int64) {
	t.Helper()
	shown = &atomic.Int64{}
	s = httptest.NewUnstartedServer(answer)
	s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert, VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error {
		shown.Add(int64(len(raw)))
		return nil
	}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s, pemOf("CERTIFICATE", s.Certificate().Raw), shown
}

func oneTag(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"tags":["a"]}`) }

// forward is a proxy for CONNECT that connects every host to one address. passed counts the connections.
func forward(to string, passed *atomic.Int64) http.HandlerFunc {
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("proxy-user:proxy-"+secret))
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Header.Get("Proxy-Authorization") != want || r.Header.Get("Authorization") != "" {
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		passed.Add(1)
		far, err := net.Dial("tcp", to)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		near, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		_, _ = io.WriteString(near, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { _, _ = io.Copy(far, near); _ = far.Close() }()
		_, _ = io.Copy(near, far)
		_ = near.Close()
	}
}

// endless writes until the client closes the connection and returns the number of bytes.
func endless(w http.ResponseWriter, piece string) int64 {
	var n int64
	for {
		m, err := io.WriteString(w, piece)
		n += int64(m)
		if err != nil {
			return n
		}
	}
}
