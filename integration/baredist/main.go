// Command baredist runs the registry distribution, from the version that this module depends on. Tests use it as an
// upstream, and the benchmark compares with it. Its configuration is that of the stock registry: files, with blob
// descriptors cached in memory.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/middleware/redirect" // registers the middleware
	"github.com/sirupsen/logrus"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:5000", "address to listen on")
	root := flag.String("root", "", "directory for its files")
	lenient := flag.Bool("lenient", false, "take layers that lie at other URLs, and indexes whose manifests are not there")
	redirect := flag.String("redirect", "", "URL under which its files are served, to which pulls of blobs are redirected")
	collect := flag.Bool("collect", false, "collect garbage, manifests without a tag among it, and end; nobody may use the files meanwhile")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	do := func() error { return run(ctx, *addr, *root, *redirect, *lenient) }
	if *collect {
		do = func() error { return collectGarbage(ctx, *root) }
	}
	if err := do(); err != nil {
		fmt.Fprintln(os.Stderr, "baredist:", err)
		os.Exit(1)
	}
}

func collectGarbage(ctx context.Context, root string) error {
	driver := filesystem.New(filesystem.DriverParameters{RootDirectory: root, MaxThreads: 25})
	registry, err := storage.NewRegistry(ctx, driver)
	if err != nil {
		return err
	}
	return storage.MarkAndSweep(ctx, driver, registry, storage.GCOpts{RemoveUntagged: true, Quiet: true})
}

func run(ctx context.Context, addr, root, redirect string, lenient bool) error {
	if root == "" {
		return errors.New("want -root")
	}
	logrus.SetOutput(io.Discard)
	logrus.SetLevel(logrus.PanicLevel)
	config := &configuration.Configuration{Storage: configuration.Storage{
		"filesystem": configuration.Parameters{"rootdirectory": root},
		"delete":     configuration.Parameters{"enabled": true},
		"cache":      configuration.Parameters{"blobdescriptor": "inmemory"},
	}}
	config.Catalog.MaxEntries = 1000 // the default of a configuration file
	config.HTTP.Secret = "only for tests"
	if redirect != "" {
		config.Middleware = map[string][]configuration.Middleware{"storage": {{Name: "redirect", Options: configuration.Parameters{"baseurl": redirect}}}}
	}
	if lenient {
		config.Validation.Manifests.URLs.Allow = []string{"^https?://"}
		config.Validation.Manifests.Indexes.Platforms = "none"
	}
	app := handlers.NewApp(ctx, config)
	server := &http.Server{Addr: addr, Handler: app, ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.ListenAndServe() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		return server.Shutdown(last)
	}
}
