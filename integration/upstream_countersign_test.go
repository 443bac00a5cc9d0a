package integration

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/countersign/countersign/storage"
	"github.com/countersign/countersign/storage/storagetest"
	"github.com/countersign/countersign/storage/upstream"
)

// TestUpstreamIsCountersign has the suite of every storage pass in front of another of our own, which wants tokens.
func TestUpstreamIsCountersign(t *testing.T) {
	t.Parallel()
	behind := startServer(t)
	var opened atomic.Int64
	in := func(t *testing.T) storage.Storage {
		t.Helper()
		s, err := upstream.New(upstream.Options{
			URL: "http://" + behind.host, Username: "admin", Password: adminPassword, Prefix: fmt.Sprintf("run%d/", opened.Add(1)),
		})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	storagetest.Run(t, in)
	storagetest.RunManifests(t, in)
}
