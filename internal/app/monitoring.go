package app

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// readyTimeout limits the checks of one request for /readyz.
	readyTimeout = 5 * time.Second
	// monitoringTimeout limits the time for a response on the listener for monitoring. It is longer than a scrape.
	monitoringTimeout = 30 * time.Second
	// maxToken is the limit of the file metrics.token_file in bytes.
	maxToken = 4 << 10
)

// monitoring serves /metrics, /livez and /readyz on a listener of its own. A nil monitoring serves nothing.
type monitoring struct {
	listener  net.Listener
	metrics   http.Handler
	tokenFile string
	ready     func(context.Context) error
	log       *slog.Logger
}

// openMonitoring listens on the address of the settings. It returns nil without one. The caller closes it.
func (a *App) openMonitoring(ctx context.Context) (*monitoring, error) {
	c := a.config.Metrics
	if c.Listen == "" {
		return nil, nil
	}
	m := &monitoring{metrics: a.metrics.Handler(), tokenFile: c.TokenFile, log: a.log}
	if c.TokenFile != "" {
		a.warnOfReadableSecret(ctx, "metrics.token_file", c.TokenFile)
		if _, err := m.token(); err != nil {
			return nil, err
		}
	}
	var err error
	if m.listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", c.Listen); err != nil {
		return nil, fmt.Errorf("metrics.listen: %w", err)
	}
	return m, nil
}

// close closes the listener.
func (m *monitoring) close() {
	if m != nil {
		_ = m.listener.Close()
	}
}

// during runs main and serves until main returns, so that a process which is shutting down is still observed. The context of
// main also ends if serving fails.
func (m *monitoring) during(ctx context.Context, main func(context.Context) error) error {
	if m == nil {
		return main(ctx)
	}
	server := &http.Server{
		Handler: m.handler(ctx), ReadHeaderTimeout: headerTimeout, ReadTimeout: headerTimeout, WriteTimeout: monitoringTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(m.log.Handler(), slog.LevelDebug),
	}
	group, running := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := server.Serve(m.listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("metrics.listen: %w", err)
		}
		return nil
	})
	group.Go(func() error {
		defer func() { _ = server.Close() }()
		return main(running)
	})
	return group.Wait()
}

// handler returns the handler of the listener. ctx ends when the process begins to stop.
func (m *monitoring) handler(ctx context.Context) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", http.HandlerFunc(m.serveMetrics))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if ctx.Err() != nil {
			http.Error(w, "stopping", http.StatusServiceUnavailable)
			return
		}
		limited, cancel := context.WithTimeout(r.Context(), readyTimeout)
		defer cancel()
		if err := m.ready(limited); err != nil {
			m.log.WarnContext(ctx, "not ready", slog.Any("err", err))
			http.Error(w, "not ready; the log of the process says why", http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "ok\n")
	})
	return mux
}

// serveMetrics exposes the metrics to clients with the token, if there is one.
func (m *monitoring) serveMetrics(w http.ResponseWriter, r *http.Request) {
	if m.tokenFile != "" {
		want, err := m.token()
		if err != nil {
			m.log.ErrorContext(r.Context(), "cannot serve metrics", slog.Any("err", err))
			http.Error(w, "the token cannot be read; the log of the process says why", http.StatusServiceUnavailable)
			return
		}
		scheme, got, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if !strings.EqualFold(scheme, "Bearer") || !equal(strings.TrimSpace(got), want) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="metrics"`)
			http.Error(w, "send the token of metrics.token_file as a bearer token", http.StatusUnauthorized)
			return
		}
	}
	m.metrics.ServeHTTP(w, r)
}

// token reads the token.
func (m *monitoring) token() (string, error) {
	f, err := os.Open(m.tokenFile)
	if err != nil {
		return "", fmt.Errorf("metrics.token_file: %w", err)
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, maxToken))
	if err != nil {
		return "", fmt.Errorf("metrics.token_file: %w", err)
	}
	first, _, _ := strings.Cut(string(text), "\n")
	if first = strings.TrimSpace(first); first == "" {
		return "", errors.New("metrics.token_file: the first line is empty; write the token there")
	}
	return first, nil
}

// equal compares secrets in constant time.
func equal(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}
