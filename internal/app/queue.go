package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/countersign/countersign/config"
	"github.com/countersign/countersign/tasks"
	"github.com/countersign/countersign/tasks/memqueue"
	"github.com/countersign/countersign/tasks/redisqueue"
)

// Queue is the task queue of a process.
type Queue struct {
	tasks.Queue
	// Ping reports whether Redis answers. It is nil for a queue in memory.
	Ping func(context.Context) error
	// Time returns the time of Redis's clock. It is nil for a queue in memory.
	Time func(context.Context) (time.Time, error)
	// Close releases the connections.
	Close func()
}

// OpenQueue opens the task queue: in memory without redis_url, otherwise on Redis. Redis need not be available yet.
func (a *App) OpenQueue(ctx context.Context) (Queue, error) {
	c := a.config
	if c.RedisURL == "" {
		return Queue{Queue: &memqueue.Queue{}, Close: func() {}}, nil
	}
	trusted, err := redisTLS(c.Redis)
	if err != nil {
		return Queue{}, err
	}
	q, err := redisqueue.New(ctx, redisqueue.Options{
		URL: c.RedisURL.Reveal(), Prefix: c.Redis.Prefix, Cluster: c.Redis.Cluster, TLS: trusted, Log: a.log,
	})
	if err != nil {
		return Queue{}, fmt.Errorf("redis_url: %w", err)
	}
	return Queue{Queue: q, Ping: q.Ping, Time: q.Time, Close: func() { _ = q.Close() }}, nil
}

// redisTLS returns a TLS configuration that trusts the certificates of ca_file in addition to the system's. It
// returns nil without ca_file.
func redisTLS(c config.Redis) (*tls.Config, error) {
	if c.CAFile == "" {
		return nil, nil //nolint:nilnil // nil selects the default configuration
	}
	pem, err := os.ReadFile(c.CAFile)
	if err != nil {
		return nil, fmt.Errorf("redis.ca_file: %w", err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, errors.New("redis.ca_file: the file contains no certificate")
	}
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, nil
}
