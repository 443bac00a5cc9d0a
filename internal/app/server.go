package app

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

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
	worker     *tasks.Worker
	background []func(context.Context)
}

// run serves requests, runs tasks and the background jobs until ctx ends or one of them fails, and then shuts down
// gracefully.
func (a *App) run(ctx context.Context, srv *server) error {
	httpServer := &http.Server{
		Handler: srv.handler, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: maxStreams, WriteByteTimeout: writeTimeout, SendPingTimeout: pingAfter, PingTimeout: pingTimeout,
		},
		ErrorLog: slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
	}
	group, running := errgroup.WithContext(ctx)
	group.Go(func() error {
		err := a.listen(ctx, httpServer, srv.listener)
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
	return group.Wait()
}

// listen accepts connections, with TLS if it is configured, until s is shut down.
func (a *App) listen(ctx context.Context, s *http.Server, l net.Listener) error {
	if t := a.config.TLS; t.CertFile != "" {
		a.warnOfReadableSecret(ctx, "tls.key_file", t.KeyFile)
		return s.ServeTLS(l, t.CertFile, t.KeyFile)
	}
	return s.Serve(l)
}
