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
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/countersign/countersign/internal/pace"
)

// pipes is an in-memory listener whose connections use the clock of a synctest bubble.
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

// serve runs a server with the timeouts of the real one and returns a function that connects to it.
func serve(t *testing.T, h http.Handler) (dial func() net.Conn) {
	t.Helper()
	l := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
	protocols := cleartextHTTP2()
	protocols.SetHTTP1(true)
	s := &http.Server{
		Protocols:         protocols,
		Handler:           pace.Handler(h, pace.Options{}),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
	}
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

// answer reads a response and its body.
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

// untilClosed returns the time until the server closes a connection.
func untilClosed(c net.Conn) time.Duration {
	start := time.Now()
	_, _ = io.Copy(io.Discard, c)
	return time.Since(start)
}

// echo answers with the number of bytes of the body, or 400 if reading it fails.
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

// TestStalledBodies checks that a request whose body stalls is aborted within 90 seconds, whether the handler reads the
// body, ignores it, answers early or closes it.
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

// TestSlowBodies checks that a body at 20 kB/s may take as long as it needs, and that a request whose body trickles is
// answered with an error, however short the pauses are.
func TestSlowBodies(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		size, piece int
		pause       time.Duration
		want        string
		within      time.Duration
	}{
		"20 kB/s":                      {size: 100_000_000, piece: 20_000, pause: time.Second, want: "200 100000000", within: 2 * time.Hour},
		"2 kB/s in one piece a minute": {size: 2_000_000, piece: 110_000, pause: 55 * time.Second, want: "200 2000000", within: time.Hour},
		"100 bytes a second":           {size: 1_000_000, piece: 100, pause: time.Second, want: "400 too slow\n", within: 90 * time.Second},
		"a byte every 50 s":            {size: 1_000_000, piece: 1, pause: 50 * time.Second, want: "400 too slow\n", within: 90 * time.Second},
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

// TestHandlersMayWait checks that the time in which a handler does other work before, between and after reads and writes
// does not count, and that the connection serves further requests long after.
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

// TestHandlersMayWaitOnHTTP2 checks that a handler may do other work between reads and between writes on HTTP/2, where a
// deadline aborts the stream even if no read or write is in progress.
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
				client := &http.Transport{
					Protocols:   cleartextHTTP2(),
					DialContext: func(context.Context, string, string) (net.Conn, error) { return dial(), nil },
				}
				defer client.CloseIdleConnections()
				r, err := http.NewRequestWithContext(
					t.Context(),
					http.MethodPut,
					"http://example.com/",
					strings.NewReader(strings.Repeat("x", 10_000_000)),
				)
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

// TestUnreadBodyDoesNotEndALongResponse checks that the deadline for the rest of a body does not cancel a request whose
// handler is still running.
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

// TestSlowReaders checks that a response may take long at a sufficient rate, and that a client that reads nothing, or too
// slowly, is disconnected.
func TestSlowReaders(t *testing.T) {
	t.Parallel()
	const size = 4_000_000
	for name, tt := range map[string]struct {
		piece int
		pause time.Duration
		whole bool
	}{
		"5 kB/s":               {piece: 5_000, pause: time.Second, whole: true},
		"nothing":              {},
		"100 bytes a second":   {piece: 100, pause: time.Second},
		"a byte every minute":  {piece: 1, pause: time.Minute},
		"all after 90 seconds": {piece: size, pause: 90 * time.Second, whole: true},
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
