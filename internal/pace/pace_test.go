package pace_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/countersign/countersign/internal/pace"
)

// pipes is a listener in memory, whose connections obey the time of a synctest bubble.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

// serve runs a server with the production timeouts of connections, and returns how to connect to it.
func serve(t *testing.T, h http.Handler) (dial func() net.Conn) {
	t.Helper()
	l := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
	protocols := cleartextHTTP2()
	protocols.SetHTTP1(true)
	s := &http.Server{Protocols: protocols, Handler: pace.Handler(h, pace.Options{}), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
	var ended sync.WaitGroup
	ended.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() {
		_ = s.Close()
		ended.Wait()
		time.Sleep(time.Hour) // everything else ends
	})
	return func() net.Conn {
		client, server := net.Pipe()
		l.conns <- server
		t.Cleanup(func() { _ = client.Close() })
		return client
	}
}

func say(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Error(err)
	}
}

// answer reads a response with its body.
func answer(t *testing.T, r *bufio.Reader) string {
	t.Helper()
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Error(err)
		return ""
	}
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Error(err)
	}
	return fmt.Sprintf("%d %s", res.StatusCode, b)
}

// untilClosed returns how long the server keeps a connection.
func untilClosed(c net.Conn) time.Duration {
	start := time.Now()
	_, _ = io.Copy(io.Discard, c)
	return time.Since(start)
}

// echo answers with the number of bytes of the body, or 400 where it cannot be read.
var echo = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	n, err := io.Copy(io.Discard, r.Body)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		http.Error(w, "too slow", http.StatusBadRequest)
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	default:
		_, _ = fmt.Fprint(w, n)
	}
})

// TestStalledBodies proves that a body which stops coming is given up within 90 seconds, whether the handler reads it, ignores it, answers early or closes it.
func TestStalledBodies(t *testing.T) {
	t.Parallel()
	for name, h := range map[string]http.Handler{
		"read":    echo,
		"unknown": http.NotFoundHandler(),
		"large":   http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 100_000)) }),
		"flushed": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
		}),
		"closed":   http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _ = r.Body.Close() }),
		"panics":   http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }),
		"one byte": http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = r.Body.Read(make([]byte, 1)) }),
	} {
		for how, head := range map[string]string{
			"length": "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc", "chunked": "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
			"expect": "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1000\r\n\r\n", "huge": "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\nabc",
		} {
			t.Run(name+" "+how, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					c := serve(t, h)()
					go say(t, c, head)
					if took := untilClosed(c); took > 90*time.Second {
						t.Errorf("the connection was kept for %v", took)
					}
				})
			})
		}
	}
}

// TestSlowBodies proves that a body may take as long as it needs at 20 kB/s, and that one which trickles is given up, and its client told, however short the
// pauses are.
func TestSlowBodies(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		size, piece int
		pause       time.Duration
		want        string
		within      time.Duration
	}{
		"20 kB/s":                      {100_000_000, 20_000, time.Second, "200 100000000", 2 * time.Hour},
		"2 kB/s in one piece a minute": {2_000_000, 110_000, 55 * time.Second, "200 2000000", time.Hour},
		"100 bytes a second":           {1_000_000, 100, time.Second, "400 too slow\n", 90 * time.Second},
		"a byte every 50 s":            {1_000_000, 1, 50 * time.Second, "400 too slow\n", 90 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := serve(t, echo)()
				start := time.Now()
				go func() {
					say(t, c, fmt.Sprintf("PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", tt.size))
					for sent := 0; sent < tt.size; sent += tt.piece {
						time.Sleep(tt.pause)
						if _, err := c.Write(make([]byte, min(tt.piece, tt.size-sent))); err != nil {
							return
						}
					}
				}()
				if got := answer(t, bufio.NewReader(c)); got != tt.want || time.Since(start) > tt.within {
					t.Errorf("%q after %v, want %q within %v", got, time.Since(start), tt.want, tt.within)
				}
				_ = c.Close()
			})
		})
	}
}

// TestHandlersMayWait proves that time in which a handler does something else counts against nobody, before, between and after reads and writes, and that a
// connection serves further requests long after.
func TestHandlersMayWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			half := make([]byte, 5)
			time.Sleep(10 * time.Minute)
			_, err1 := io.ReadFull(r.Body, half)
			time.Sleep(10 * time.Minute)
			rest, err2 := io.ReadAll(r.Body)
			time.Sleep(10 * time.Minute)
			_, err3 := fmt.Fprintf(w, "%s%s", half, rest)
			err4 := http.NewResponseController(w).Flush()
			time.Sleep(10 * time.Minute)
			if err := errors.Join(err1, err2, err3, err4, r.Context().Err()); err != nil {
				t.Error(err)
			}
			_, _ = io.WriteString(w, "!")
		})
		c := serve(t, h)()
		r := bufio.NewReader(c)
		for range 3 {
			say(t, c, "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n01234")
			say(t, c, "56789")
			if got := answer(t, r); got != "200 0123456789!" {
				t.Errorf("%q", got)
			}
			time.Sleep(115 * time.Second) // the server keeps idle connections for two minutes
		}
	})
}

// TestHandlersMayWaitOnHTTP2 proves that a handler may wait for other things between reads and between writes on HTTP/2, where a deadline that passes ends
// the stream even while nothing is read or written.
func TestHandlersMayWaitOnHTTP2(t *testing.T) {
	t.Parallel()
	for name, h := range map[string]http.HandlerFunc{
		"between reads": func(w http.ResponseWriter, r *http.Request) {
			if _, err := io.ReadFull(r.Body, make([]byte, 1000)); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Hour)
			n, err := io.Copy(io.Discard, r.Body)
			_, _ = fmt.Fprint(w, n, err)
		},
		"between writes": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = fmt.Fprint(w, "9999000 ")
			_ = http.NewResponseController(w).Flush()
			time.Sleep(time.Hour)
			_, _ = fmt.Fprint(w, "<nil>")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				dial := serve(t, h)
				client := &http.Transport{Protocols: cleartextHTTP2(), DialContext: func(context.Context, string, string) (net.Conn, error) { return dial(), nil }}
				defer client.CloseIdleConnections()
				r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://example.com/", strings.NewReader(strings.Repeat("x", 10_000_000)))
				if err != nil {
					t.Fatal(err)
				}
				res, err := client.RoundTrip(r)
				if err != nil {
					t.Fatal(err)
				}
				b, err := io.ReadAll(res.Body)
				_ = res.Body.Close()
				if err != nil || string(b) != "9999000 <nil>" {
					t.Errorf("%q, %v", b, err)
				}
			})
		})
	}
}

func cleartextHTTP2() *http.Protocols {
	p := &http.Protocols{}
	p.SetUnencryptedHTTP2(true)
	return p
}

// TestUnreadBodyDoesNotEndALongResponse proves that the deadline for the rest of a body does not cancel a request whose handler goes on.
func TestUnreadBodyDoesNotEndALongResponse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write(make([]byte, 10_000)) // sends the header, and so reads the body
			time.Sleep(10 * time.Minute)
			if err := r.Context().Err(); err != nil {
				t.Errorf("the request was ended: %v", err)
			}
			_, _ = io.WriteString(w, "!")
		}))()
		r := bufio.NewReader(c)
		for range 2 {
			go say(t, c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabcde")
			if got := answer(t, r); got != "200 "+string(make([]byte, 10_000))+"!" {
				t.Errorf("%d bytes", len(got))
			}
		}
	})
}

// TestSlowReaders proves that a response may take long at a slow but sufficient rate, and that a client which takes nothing, or trickles, is let go.
func TestSlowReaders(t *testing.T) {
	t.Parallel()
	const size = 4_000_000
	for name, tt := range map[string]struct {
		piece int
		pause time.Duration
		whole bool
	}{
		"5 kB/s":               {5_000, time.Second, true},
		"nothing":              {0, 0, false},
		"100 bytes a second":   {100, time.Second, false},
		"a byte every minute":  {1, time.Minute, false},
		"all after 90 seconds": {size, 90 * time.Second, true},
	} {
		for kind, h := range map[string]http.Handler{
			"at once": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, size)) }),
			"copied":  http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.Copy(w, bytes.NewReader(make([]byte, size))) }),
			"in bits": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				for range size / 1000 {
					if _, err := w.Write(make([]byte, 1000)); err != nil {
						return
					}
				}
			}),
		} {
			t.Run(name+" "+kind, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					var took time.Duration
					ended := make(chan struct{})
					c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						defer close(ended)
						start := time.Now()
						h.ServeHTTP(w, r)
						took = time.Since(start)
					}))()
					say(t, c, "GET / HTTP/1.0\r\nHost: x\r\n\r\n")
					got := 0
					if tt.piece > 0 {
						b := make([]byte, tt.piece)
						for {
							time.Sleep(tt.pause)
							n, err := io.ReadFull(c, b)
							if got += n; err != nil {
								break
							}
						}
					}
					<-ended
					synctest.Wait()
					if tt.whole != (got > size) || !tt.whole && took > 150*time.Second {
						t.Errorf("%d bytes, the handler ran for %v", got, took)
					}
				})
			})
		}
	}
}

// own is a response that takes from files what the kernel would send, at a rate, and obeys the deadline.
type own struct {
	http.ResponseWriter
	rate  int // bytes a second
	burst int // bytes that it takes at once before
	due   time.Time
	got   bytes.Buffer
	calls int
	odd   []string // what came to ReadFrom and was no file
}

func (o *own) Header() http.Header                { return http.Header{} }
func (o *own) SetWriteDeadline(t time.Time) error { o.due = t; return nil }
func (o *own) SetReadDeadline(time.Time) error    { return nil }
func (o *own) ReadFrom(r io.Reader) (n int64, err error) {
	o.calls++
	l, _ := r.(*io.LimitedReader)
	if l == nil {
		o.odd = append(o.odd, fmt.Sprintf("%T", r))
		return 0, nil
	}
	if _, ok := l.R.(*os.File); !ok {
		o.odd = append(o.odd, fmt.Sprintf("%T", l.R))
	}
	if n, err = io.CopyN(&o.got, r, int64(o.burst)); err != nil {
		return n, nil //nolint:nilerr // the file's end
	}
	o.burst = 0
	for {
		if !time.Now().Before(o.due) {
			_, _ = io.CopyN(io.Discard, r, 100) // read and not sent, as a copy in user space may
			return n, os.ErrDeadlineExceeded
		}
		time.Sleep(time.Second)
		m, err := io.CopyN(&o.got, r, int64(o.rate))
		if n += m; err != nil {
			return n, nil //nolint:nilerr // the file's end
		}
	}
}

// TestFilesAreSentByTheKernel proves that a file reaches the server's own ReadFrom as one, without being cut into pieces while the client is fast enough, that
// a slow transfer is continued where it was, and that one which is too slow ends.
func TestFilesAreSentByTheKernel(t *testing.T) {
	t.Parallel()
	content := make([]byte, 3_000_000)
	for i := range content {
		content[i] = byte(i % 251)
	}
	name := filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	for what, tt := range map[string]struct {
		burst, rate, calls, from, size int
		whole                          bool
		within                         time.Duration
	}{
		"fast":                  {0, 1_000_000, 1, 0, 3_000_000, true, 10 * time.Second},
		"a part":                {0, 1_000_000, 1, 1000, 2_000_000, true, 10 * time.Second},
		"slow":                  {0, 5_000, 40, 1000, 2_999_000, true, 10 * time.Minute}, // 600 s, interrupted every 15
		"slower than it may":    {0, 500, 8, 0, 3_000_000, false, 2 * time.Minute},
		"a full buffer, a stop": {2_000_000, 0, 9, 0, 3_000_000, false, 135 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			file, err := os.Open(name)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = file.Close() }()
			if _, err := file.Seek(int64(tt.from), io.SeekStart); err != nil {
				t.Fatal(err)
			}
			o := &own{rate: tt.rate, burst: tt.burst}
			began := time.Now()
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
			if err != nil {
				t.Fatal(err)
			}
			var n int64
			pace.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				n, err = io.CopyN(w, file, int64(tt.size)) // as http.ServeContent does
			}), pace.Options{}).ServeHTTP(o, r)
			if took := time.Since(began); took > tt.within+time.Second {
				t.Errorf("%s: it took %v", what, took)
			}
			if o.calls != tt.calls || len(o.odd) > 0 {
				t.Errorf("%s: %d calls of ReadFrom, want %d; no files: %v", what, o.calls, tt.calls, o.odd)
			}
			if tt.whole && (err != nil || n != int64(tt.size) || !bytes.Equal(o.got.Bytes(), content[tt.from:tt.from+tt.size])) {
				t.Errorf("%s: %d bytes, %v", what, n, err)
			}
			if !tt.whole && (!errors.Is(err, os.ErrDeadlineExceeded) || n >= int64(tt.size)) {
				t.Errorf("%s: %d bytes, %v, want an end by the deadline", what, n, err)
			}
		})
	}
}

// TestOverRealConnections proves that files, range requests and bodies pass unharmed over TCP, TLS and HTTP/2, and that a stalled body and a stalled reader end
// there, too.
func TestOverRealConnections(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	name := filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	h := pace.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/file":
			http.ServeFile(w, r, name)
		case "/endless":
			var err error
			for err == nil {
				_, err = w.Write(content)
			}
			ended <- err
		default:
			echo.ServeHTTP(w, r)
		}
	}), pace.Options{BodyWindow: 500 * time.Millisecond, ResponseWindow: time.Second, Drain: 500 * time.Millisecond})
	for _, kind := range []string{"HTTP/1.1", "TLS", "HTTP/2.0"} {
		server, client := start(t, h, kind)
		for range 2 {
			res := do(t, client, http.MethodGet, server+"/file", nil)
			if !bytes.Equal(res.body, content) || kind != "TLS" && res.proto != kind {
				t.Errorf("%s: %s, %d bytes", kind, res.proto, len(res.body))
			}
		}
		if res := do(t, client, http.MethodPut, server+"/", bytes.NewReader(content)); string(res.body) != fmt.Sprint(len(content)) {
			t.Errorf("%s: a body: %s", kind, res.body)
		}
		body, end := io.Pipe()
		go func() { _, _ = end.Write([]byte("abc")) }()
		if res := do(t, client, http.MethodPut, server+"/", body); string(res.body) != "too slow\n" {
			t.Errorf("%s: a stalled body: %d %s", kind, res.status, res.body)
		}
		_ = body.Close()

		ctx, cancel := context.WithCancel(t.Context())
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, server+"/endless", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-ended:
		case <-time.After(time.Minute):
			t.Errorf("%s: a client that takes nothing is still served", kind)
		}
		cancel()
		_ = res.Body.Close()
	}
}

type result struct {
	proto  string
	status int
	body   []byte
}

func do(t *testing.T, client *http.Client, method, url string, body io.Reader) result {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	res, err := client.Do(r)
	if err != nil {
		t.Error(err)
		return result{}
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Error(err)
	}
	return result{res.Proto, res.StatusCode, b}
}

// start serves over a kind of connection and returns the server's URL and a client.
func start(t *testing.T, h http.Handler, kind string) (string, *http.Client) {
	t.Helper()
	s := newServer(h)
	switch kind {
	case "HTTP/2.0":
		s.EnableHTTP2 = true
		s.StartTLS()
	case "TLS":
		s.StartTLS()
	default:
		s.Start()
	}
	t.Cleanup(s.Close)
	if !strings.HasPrefix(s.URL, "http") {
		t.Fatal(s.URL)
	}
	return s.URL, s.Client()
}

func newServer(h http.Handler) *httptest.Server {
	s := httptest.NewUnstartedServer(h)
	s.Config.IdleTimeout = time.Minute
	return s
}
