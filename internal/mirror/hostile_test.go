package mirror_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/mirror"
	"github.com/countersign/countersign/internal/pulp"
)

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

const secret = "correct-horse"

// open opens a remote at a URL, with credentials, over a network that allows loopback unless the edit takes that away.
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

func open127(t *testing.T, url string, edits ...func(*pulp.Remote)) *mirror.Registry {
	t.Helper()
	return open(t, url, mirror.Options{AllowPrivate: loopback}, edits...)
}

// witness is a server that must not learn anything: it notes the credentials that it is sent.
type witness struct {
	*httptest.Server
	mu    sync.Mutex
	asked int
	told  []string
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

func (w *witness) check(t *testing.T, asked bool) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.told) > 0 || asked != (w.asked > 0) {
		t.Errorf("the other host was asked %d times and told %v", w.asked, w.told)
	}
}

func TestAddressesInsideAreRefused(t *testing.T) {
	t.Parallel()
	for _, host := range []string{
		"127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "198.18.0.1", "192.0.0.8",
		"[::1]", "[::]", "[fe80::1]", "[fc00::1]", "[fd12::1]", "[ff02::1]", "[::ffff:127.0.0.1]", "[::ffff:10.0.0.1]", "[::127.0.0.1]",
		"[64:ff9b::10.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[2002:a00:1::1]", "[2001:0:1::1]", "[fe80::1%25lo]", "inside.example", "both.example", "2130706433", "0x7f.1",
	} {
		g := open(t, "http://"+host+":9", mirror.Options{Lookup: func(_ context.Context, name string) ([]netip.Addr, error) {
			switch name {
			case "both.example":
				return []netip.Addr{netip.MustParseAddr("93.184.216.34"), netip.MustParseAddr("10.0.0.1")}, nil
			default: // also what a resolver makes of 2130706433
				return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
			}
		}})
		_, err := g.Head(t.Context(), "latest")
		if !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), "mirror.allow_private_addresses") {
			t.Errorf("%s: %v", host, err)
		}
	}
}

func TestAllowedAddressesAreReached(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"tags":["a"]}`) }))
	defer s.Close()
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	for _, allow := range []string{"127.0.0.0/8", "127.0.0.1/32"} {
		o := mirror.Options{AllowPrivate: []netip.Prefix{netip.MustParsePrefix(allow)}, Lookup: func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
		}}
		for _, host := range []string{"127.0.0.1", "registry.example"} {
			if tags, err := open(t, "http://"+host+":"+port, o).Tags(t.Context()); err != nil || len(tags) != 1 {
				t.Errorf("%s with %s allowed: %v, %v", host, allow, tags, err)
			}
		}
	}
}

// A name that resolves outside first and inside later is refused later: each connection looks anew, and dials what it
// has looked at.
func TestRebinding(t *testing.T) {
	t.Parallel()
	inside := newWitness(t, nil)
	_, port, _ := net.SplitHostPort(inside.Listener.Addr().String())
	var asked atomic.Int64
	g := open(t, "http://rebind.example:"+port, mirror.Options{Lookup: func(context.Context, string) ([]netip.Addr, error) {
		if asked.Add(1) == 1 {
			return []netip.Addr{netip.MustParseAddr("203.0.114.1")}, nil // outside, and nobody there
		}
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
	}}, func(r *pulp.Remote) { brief := 0.2; r.Connection.ConnectTimeout = &brief })
	_, first := g.Head(t.Context(), "latest")
	_, second := g.Head(t.Context(), "latest")
	if first == nil || !fault.Is(second, fault.Denied) {
		t.Errorf("first %v, second %v", first, second)
	}
	inside.check(t, false)
}

func TestRedirects(t *testing.T) {
	t.Parallel()
	layer := strings.Repeat("layer", 1000)
	d := digest.FromString(layer)
	elsewhere := newWitness(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, layer) })
	var to atomic.Value
	to.Store(elsewhere.URL + "/x")
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, _, ok := r.BasicAuth(); !ok || user != "robot" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		http.Redirect(w, r, to.Load().(string), http.StatusTemporaryRedirect)
	}))
	defer s.Close()
	withHeaders := func(r *pulp.Remote) { r.Connection.Headers = []map[string]string{{"X-Token": secret}} }
	g := open127(t, s.URL, withHeaders)
	// Blobs may come from elsewhere; nothing goes there that is for the remote.
	body, err := g.Blob(t.Context(), d, int64(len(layer)))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(body); err != nil || string(got) != layer {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	_ = body.Close()
	elsewhere.check(t, true)
	// So may everything else.
	answers := newWitness(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"tags":["a"],"signatures":[]}`)
	})
	to.Store(answers.URL + "/x")
	all := map[string]func() error{
		"blob":       func() error { _, err := g.Blob(t.Context(), d, 1); return err },
		"tags":       func() error { _, err := g.Tags(t.Context()); return err },
		"head":       func() error { _, err := g.Head(t.Context(), "a"); return err },
		"manifest":   func() error { _, err := g.Manifest(t.Context(), "a"); return err },
		"signatures": func() error { _, err := g.Signatures(t.Context(), mirror.Extension, d); return err },
	}
	for name, ask := range all {
		if err := ask(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	answers.check(t, true)
	// The dialer refuses a redirect to inside.
	for _, inside := range []string{"http://169.254.169.254/latest/meta-data", "http://10.0.0.1/", "http://[::ffff:192.168.0.1]/", "file:///etc/passwd", "gopher://127.0.0.1/"} {
		to.Store(inside)
		for name, ask := range all {
			if err := ask(); err == nil {
				t.Errorf("%s: a redirect to %s is followed", name, inside)
			}
		}
	}
}

func TestTokenServiceElsewhere(t *testing.T) {
	t.Parallel()
	elsewhere := newWitness(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"token":"anonymous"}`) })
	for name, realm := range map[string]string{"another port": elsewhere.URL + "/token", "inside": "http://169.254.169.254/token", "no URL": "x", "another scheme": "ftp://127.0.0.1/"} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") == "Bearer anonymous" {
				_, _ = io.WriteString(w, `{"tags":[]}`)
				return
			}
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+realm+`",service="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		}))
		_, err := open127(t, s.URL).Tags(t.Context())
		if (name == "another port") != (err == nil) || err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", name, err)
		}
		s.Close()
	}
	elsewhere.check(t, true)
}

func TestTokensOfTheRemotesOwn(t *testing.T) {
	t.Parallel()
	var fetched atomic.Int64
	var s *httptest.Server
	s = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			user, password, _ := r.BasicAuth()
			if user != "robot" || password != secret || r.URL.Query().Get("scope") != "repository:src/app:pull" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			fetched.Add(1)
			_ = json.NewEncoder(w).Encode(map[string]any{"access_token": "good", "expires_in": 300})
			return
		}
		if r.Header.Get("Authorization") != "Bearer good" {
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+s.URL+`/token",service="x",scope="whatever"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = io.WriteString(w, `{"tags":["a","b"]}`)
	}))
	defer s.Close()
	g := open127(t, s.URL)
	for range 3 {
		if tags, err := g.Tags(t.Context()); err != nil || len(tags) != 2 {
			t.Fatal(tags, err)
		}
	}
	if fetched.Load() != 1 {
		t.Errorf("%d tokens were fetched", fetched.Load())
	}
	wrong := open127(t, s.URL, func(r *pulp.Remote) { p := "wrong-" + secret; r.Secrets.Password = &p })
	if _, err := wrong.Tags(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "401, message='Unauthorized', url='"+s.URL+"/token'") || strings.Contains(err.Error(), secret) {
		t.Errorf("a wrong password: %v", err)
	}
}

// endless writes until nobody reads, and says how much that was.
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

func TestEndlessAnswersAreBounded(t *testing.T) {
	t.Parallel()
	var most atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/token") {
			most.Store(max(most.Load(), endless(w, strings.Repeat(" ", 64<<10))))
			return
		}
		most.Store(max(most.Load(), endless(w, strings.Repeat(" ", 64<<10))))
	}))
	defer s.Close()
	g := open127(t, s.URL)
	d := digest.FromString("x")
	for name, ask := range map[string]func() error{
		"tags":       func() error { _, err := g.Tags(t.Context()); return err },
		"manifest":   func() error { _, err := g.Manifest(t.Context(), "a"); return err },
		"signatures": func() error { _, err := g.Signatures(t.Context(), mirror.Extension, d); return err },
		"blob": func() error {
			body, err := g.Blob(t.Context(), d, 100)
			if err != nil {
				return err
			}
			defer func() { _ = body.Close() }()
			_, err = io.Copy(io.Discard, body)
			return err
		},
	} {
		if err := ask(); err == nil {
			t.Errorf("%s: an endless answer ends well", name)
		}
	}
	if most.Load() > 64<<20 {
		t.Errorf("%d bytes were read", most.Load())
	}
}

func TestPagesOfTags(t *testing.T) {
	t.Parallel()
	page := func(w http.ResponseWriter, link string, tags ...string) {
		if link != "" {
			w.Header().Set("Link", link)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"tags": tags})
	}
	other := newWitness(t, nil)
	for name, c := range map[string]struct {
		answer func(w http.ResponseWriter, last string)
		want   string // of the tags; else the error's kind is Denied or Unavailable
	}{
		"two pages": {func(w http.ResponseWriter, last string) {
			if last == "" {
				page(w, `</v2/src/app/tags/list?n=1&last=a>; rel="next"`, "a")
				return
			}
			page(w, "", "b", "a")
		}, "[a b]"},
		"an absolute link behind a proxy": {func(w http.ResponseWriter, last string) {
			if last == "" {
				page(w, `<http://internal.example/v2/src/app/tags/list?last=a>; rel=next`, "a")
				return
			}
			page(w, "", "b")
		}, "[a b]"},
		"names that are no tags": {func(w http.ResponseWriter, _ string) { page(w, "", "a", "../x", ".y", "", strings.Repeat("z", 129)) }, "[a]"},
		"the same page":          {func(w http.ResponseWriter, _ string) { page(w, `</v2/src/app/tags/list?last=a>; rel="next"`, "a") }, ""},
		"empty pages":            {func(w http.ResponseWriter, _ string) { page(w, `</v2/src/app/tags/list?last=q>; rel="next"`) }, ""},
		"elsewhere":              {func(w http.ResponseWriter, _ string) { page(w, `<`+other.URL+`/elsewhere?last=a>; rel="next"`, "a") }, ""},
		"no JSON":                {func(w http.ResponseWriter, _ string) { _, _ = io.WriteString(w, "<html>") }, ""},
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { c.answer(w, r.URL.Query().Get("last")) }))
		tags, err := open127(t, s.URL).Tags(t.Context())
		if c.want != "" && (err != nil || fmt.Sprint(tags) != c.want) || c.want == "" && err == nil {
			t.Errorf("%s: %v, %v", name, tags, err)
		}
		s.Close()
	}
	other.check(t, false)
	var n atomic.Int64
	many := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		names := make([]string, 20_000)
		for i := range names {
			names[i] = fmt.Sprintf("t%d", n.Add(1))
		}
		page(w, `</v2/src/app/tags/list?last=`+names[0]+`>; rel="next"`, names...)
	}))
	defer many.Close()
	if _, err := open127(t, many.URL).Tags(t.Context()); err == nil || n.Load() > 200_000 {
		t.Errorf("tags without end: %v after %d", err, n.Load())
	}
}

func TestRetries(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	answer := func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) <= 2 {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		_, _ = io.WriteString(w, `{"tags":["a"]}`)
	}
	s := httptest.NewServer(http.HandlerFunc(answer))
	defer s.Close()
	few := func(n int64) func(*pulp.Remote) { return func(r *pulp.Remote) { r.Connection.MaxRetries = &n } }
	if tags, err := open127(t, s.URL, few(2)).Tags(t.Context()); err != nil || len(tags) != 1 || asked.Load() != 3 {
		t.Errorf("%v, %v after %d requests", tags, err, asked.Load())
	}
	asked.Store(0)
	if _, err := open127(t, s.URL, few(1)).Tags(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "429, message='Too Many Requests'") || asked.Load() != 2 {
		t.Errorf("%v after %d requests", err, asked.Load())
	}
	// A remote that wants more patience than there is, and a caller that goes away.
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer slow.Close()
	if _, err := open127(t, slow.URL, few(3)).Tags(t.Context()); err == nil {
		t.Error("an hour was waited for")
	}
	patient := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "100")
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer patient.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := open127(t, patient.URL, few(3)).Tags(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want the caller's deadline", err)
	}
}

func TestBlobsResume(t *testing.T) {
	t.Parallel()
	content := []byte(strings.Repeat("0123456789", 50_000))
	d := digest.FromBytes(content)
	retries := int64(3)
	for name, ranges := range map[string]bool{"with ranges": true, "without": false} {
		var asked atomic.Int64
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			from := 0
			if v := r.Header.Get("Range"); v != "" && ranges {
				_, _ = fmt.Sscanf(v, "bytes=%d-", &from)
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(content)-1, len(content)))
			}
			w.Header().Set("Content-Length", fmt.Sprint(len(content)-from))
			if from > 0 {
				w.WriteHeader(http.StatusPartialContent)
			}
			if n := asked.Add(1); n < 3 {
				_, _ = w.Write(content[from:min(len(content), from+int(n)*150_000)])
				panic(http.ErrAbortHandler)
			}
			_, _ = w.Write(content[from:])
		}))
		g := open127(t, s.URL, func(r *pulp.Remote) { r.Connection.MaxRetries = &retries })
		body, err := g.Blob(t.Context(), d, int64(len(content)))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(body); err != nil || digest.FromBytes(got) != d || asked.Load() != 3 {
			t.Errorf("%s: %d bytes, %v, after %d requests", name, len(got), err, asked.Load())
		}
		_ = body.Close()
		s.Close()
	}
}

func TestBlobsThatAreWrong(t *testing.T) {
	t.Parallel()
	content := strings.Repeat("x", 10_000)
	d := digest.FromString(content)
	for name, sent := range map[string]string{"other": strings.Repeat("y", 10_000), "fewer": content[:9_000], "more": content + "x", "none": ""} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, sent) }))
		body, err := open127(t, s.URL).Blob(t.Context(), d, int64(len(content)))
		if err == nil {
			_, err = io.ReadAll(body)
			_ = body.Close()
		}
		if err == nil {
			t.Errorf("%s bytes end well", name)
		}
		s.Close()
	}
}

func TestSilentRemotes(t *testing.T) {
	t.Parallel()
	stop := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/blobs/") {
			_, _ = io.WriteString(w, "some")
			_ = http.NewResponseController(w).Flush()
		}
		<-stop
	}))
	defer s.Close()
	defer close(stop)
	brief := 0.1
	g := open127(t, s.URL, func(r *pulp.Remote) { r.Connection.SockReadTimeout = &brief })
	if _, err := g.Tags(t.Context()); err == nil {
		t.Error("a remote that says nothing is waited for")
	}
	body, err := g.Blob(t.Context(), digest.FromString("x"), 100)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(body); err == nil {
		t.Error("a remote that falls silent is waited for")
	}
	_ = body.Close()
	total := open127(t, s.URL, func(r *pulp.Remote) { r.Connection.TotalTimeout = &brief })
	if _, err := total.Tags(t.Context()); err == nil {
		t.Error("total_timeout is of no effect")
	}
}

func TestTLSAndProxy(t *testing.T) {
	t.Parallel()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"tags":["a"]}`) }))
	defer s.Close()
	if _, err := open127(t, s.URL).Tags(t.Context()); err == nil {
		t.Error("an unknown certificate is accepted")
	}
	if _, err := open127(t, s.URL, func(r *pulp.Remote) { r.Connection.TLSValidation = false }).Tags(t.Context()); err != nil {
		t.Errorf("without validation: %v", err)
	}
	var proxied atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Proxy-Authorization") == "" {
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		proxied.Add(1)
		_, _ = io.WriteString(w, `{"tags":["p"]}`)
	}))
	defer proxy.Close()
	through := func(r *pulp.Remote) {
		user, password := "proxy-user", "proxy-"+secret
		r.Connection.ProxyURL, r.Secrets.ProxyUsername, r.Secrets.ProxyPassword = &proxy.URL, &user, &password
	}
	if tags, err := open127(t, "http://registry.example", through).Tags(t.Context()); err != nil || fmt.Sprint(tags) != "[p]" || proxied.Load() != 1 {
		t.Errorf("through a proxy: %v, %v", tags, err)
	}
	if _, err := open127(t, "http://10.0.0.1", through).Tags(t.Context()); !fault.Is(err, fault.Denied) {
		t.Errorf("an address inside through a proxy: %v", err)
	}
	if _, err := open(t, "http://registry.example", mirror.Options{}, through).Tags(t.Context()); !fault.Is(err, fault.Denied) {
		t.Errorf("a proxy inside: %v", err)
	}
}

func TestSignatureSources(t *testing.T) {
	t.Parallel()
	d := digest.FromString("m")
	files := newWitness(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/sigs/src/app@sha256=" + d.Encoded() + "/signature-1", "/sigs/src/app@sha256=" + d.Encoded() + "/signature-2":
			_, _ = io.WriteString(w, r.URL.Path[len(r.URL.Path)-1:])
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
	at := files.URL + "/sigs/"
	g := open127(t, "http://127.0.0.1:1", func(r *pulp.Remote) { r.Sigstore = &at })
	from, err := g.SignatureSource(t.Context())
	if err != nil || from != mirror.Lookaside {
		t.Fatal(from, err)
	}
	if found, err := g.Signatures(t.Context(), from, d); err != nil || len(found) != 2 || string(found[1].Content) != "2" {
		t.Errorf("from files: %v, %v", found, err)
	}
	files.check(t, true)

	endlessly := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "x") }))
	defer endlessly.Close()
	g = open127(t, "http://127.0.0.1:1", func(r *pulp.Remote) { r.Sigstore = &endlessly.URL })
	if found, err := g.Signatures(t.Context(), mirror.Lookaside, d); err != nil || len(found) != 100 {
		t.Errorf("signatures without end: %d, %v", len(found), err)
	}

	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" {
			if r.Header.Get("Authorization") != "" {
				t.Error("/v2/ is asked with credentials")
			}
			w.Header().Set("X-Registry-Supports-Signatures", "1")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if !strings.HasSuffix(r.URL.Path, string(d)) {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = io.WriteString(w, `{"signatures":[{"schemaVersion":2,"type":"atomic","name":"n","content":"eA=="},{"schemaVersion":1,"type":"atomic","content":"eA=="},`+
			`{"schemaVersion":2,"type":"other","content":"eA=="},{"schemaVersion":2,"type":"atomic","content":"!"}]}`)
	}))
	defer s.Close()
	g = open127(t, s.URL)
	if from, err = g.SignatureSource(t.Context()); err != nil || from != mirror.Extension {
		t.Fatal(from, err)
	}
	if found, err := g.Signatures(t.Context(), from, d); err != nil || len(found) != 1 || found[0].Name != "n" || string(found[0].Content) != "x" {
		t.Errorf("over the extension: %v, %v", found, err)
	}
	if found, err := g.Signatures(t.Context(), from, digest.FromString("other")); err != nil || len(found) != 0 {
		t.Errorf("a manifest without: %v, %v", found, err)
	}
}

func TestOpen(t *testing.T) {
	t.Parallel()
	bad := "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"
	ftp := "ftp://x"
	for name, edit := range map[string]func(*pulp.Remote){
		"no host": func(r *pulp.Remote) { r.URL = "http://" }, "a user": func(r *pulp.Remote) { r.URL = "http://u:p@x" }, "a scheme": func(r *pulp.Remote) { r.URL = ftp },
		"a name": func(r *pulp.Remote) { r.UpstreamName = "A/../b" }, "ca": func(r *pulp.Remote) { r.Connection.CACert = &bad },
		"pair": func(r *pulp.Remote) { r.Connection.ClientCert = &bad }, "sigstore": func(r *pulp.Remote) { r.Sigstore = &ftp }, "proxy": func(r *pulp.Remote) { r.Connection.ProxyURL = &ftp },
	} {
		r := pulp.Remote{Name: "r", URL: "https://registry.example", UpstreamName: "a/b"}
		edit(&r)
		if _, err := mirror.New(mirror.Options{Log: slog.New(slog.DiscardHandler)}).Open(r); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
