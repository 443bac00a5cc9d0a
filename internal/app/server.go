package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/countersign/countersign/config"
	"github.com/countersign/countersign/internal/servertls"
	"github.com/countersign/countersign/tasks"
)

// Limits of HTTP connections.
const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	maxHeader     = 64 << 10

	// For HTTP/2: concurrent requests of a connection, and the times after which a connection that does not accept
	// data, or does not answer a ping, is closed.
	maxStreams   = 100
	writeTimeout = 2 * time.Minute
	pingAfter    = time.Minute
	pingTimeout  = 15 * time.Second
)

// server contains everything that runs while the program serves.
type server struct {
	handler    http.Handler
	listener   net.Listener
	tls        *servertls.Reloader // nil without TLS
	worker     *tasks.Worker
	background []func(context.Context)
}

// run serves requests, runs tasks and the background jobs until ctx ends or one of them fails, and then shuts down
// gracefully.
func (a *App) run(ctx context.Context, srv *server) error {
	httpServer := &http.Server{
		Handler: srv.tlsHandler(a.config), ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: maxStreams, WriteByteTimeout: writeTimeout, SendPingTimeout: pingAfter, PingTimeout: pingTimeout,
		},
		ErrorLog: slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
	}
	group, running := errgroup.WithContext(ctx)
	group.Go(func() error {
		err := srv.listen(httpServer)
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		return err
	})
	group.Go(func() error {
		<-running.Done()
		a.log.InfoContext(ctx, "stopping")
		stopping, cancel := context.WithTimeout(context.WithoutCancel(running), a.config.ShutdownGrace)
		defer cancel()
		if err := httpServer.Shutdown(stopping); err != nil {
			return httpServer.Close()
		}
		return nil
	})
	if a.config.Workers > 0 {
		group.Go(func() error { return srv.worker.Run(running, a.config.ShutdownGrace) })
	}
	for _, job := range srv.background {
		group.Go(func() error { job(running); return nil })
	}
	if srv.tls != nil {
		group.Go(func() error { srv.tls.Run(running); return nil })
	}
	return group.Wait()
}

// openTLS loads the files of TLS. It returns nil if TLS is not configured.
func (a *App) openTLS(ctx context.Context) (*servertls.Reloader, error) {
	t := a.config.TLS
	if t.CertFile == "" {
		return nil, nil
	}
	a.warnOfReadableSecret(ctx, "tls.key_file", t.KeyFile)
	return servertls.New(ctx, servertls.Options{
		CertFile: t.CertFile, KeyFile: t.KeyFile, ClientCAFile: t.ClientCAFile,
		ClientCertRequired: t.ClientAuth == config.ClientAuthRequired, Log: a.log,
	})
}

// tlsHandler returns the handler of all requests with the duties that TLS adds.
func (srv *server) tlsHandler(c config.Config) http.Handler {
	handler := srv.handler
	if c.TLS.HSTS > 0 {
		handler = withHSTS(handler, c.TLS.HSTS, c.Public().Scheme == "https")
	}
	if srv.tls != nil {
		handler = srv.tls.Handler(handler)
	}
	return handler
}

// withHSTS returns a handler that tells browsers to use only https for the host of the server, on all its ports. The
// header is for responses over TLS, also if a proxy terminates it, which https in the public URL shows (RFC 6797, 7.2).
func withHSTS(next http.Handler, maxAge time.Duration, public bool) http.Handler {
	value := fmt.Sprintf("max-age=%d", int64(maxAge.Seconds()))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if public || r.TLS != nil {
			w.Header().Set("Strict-Transport-Security", value)
		}
		next.ServeHTTP(w, r)
	})
}

// listen accepts connections, with TLS if it is configured, until s is shut down.
func (srv *server) listen(s *http.Server) error {
	if srv.tls == nil {
		return s.Serve(srv.listener)
	}
	s.TLSConfig = srv.tls.Config()
	return s.ServeTLS(srv.listener, "", "")
}
