package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// compareUpstream compares this registry with bare distribution as its upstream and the same bare distribution
// without it. It also measures pulls of blobs that the upstream redirects.
func compareUpstream(ctx context.Context, o options, out io.Writer, dir string) error {
	peer, stopPeer, err := startPeer(ctx, dir, "behind")
	if err != nil {
		return err
	}
	defer stopPeer()
	front, stopFront, err := startInFront(ctx, filepath.Join(dir, "front"), peer)
	if err != nil {
		return err
	}
	defer stopFront()
	fmt.Fprintln(out, "\nwith distribution as the upstream, and that distribution alone")
	rows, err := compare(ctx, o, front, peer)
	if err != nil {
		return err
	}
	redirected, err := redirectedPulls(ctx, o, dir)
	if err != nil {
		return err
	}
	return printTable(out, append(rows, redirected))
}

// startInFront starts this registry with peer as its upstream.
func startInFront(ctx context.Context, dir string, peer *registry, more ...string) (*registry, func(), error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, nil, err
	}
	front, stop, err := startOurs(ctx, dir, append([]string{"COUNTERSIGN_UPSTREAM_URL=" + peer.base}, more...)...)
	if err != nil {
		return nil, nil, err
	}
	front.name = "front"
	front.settled = func(ctx context.Context, repository string, tags int) error {
		for ctx.Err() == nil {
			response, err := http.Get(peer.base + "/v2/" + repository + "/tags/list")
			if err != nil {
				return err
			}
			var list struct{ Tags []string }
			err = json.NewDecoder(response.Body).Decode(&list)
			_ = response.Body.Close()
			if err != nil || len(list.Tags) >= tags {
				return err
			}
			time.Sleep(50 * time.Millisecond)
		}
		return ctx.Err()
	}
	return front, stop, nil
}

// redirectedPulls measures pulls of a big blob that distribution redirects to a file server. This registry passes the
// redirect on to clients.
func redirectedPulls(ctx context.Context, o options, dir string) (row, error) {
	result := row{name: fmt.Sprintf("%d MB blob down, redirected", o.blob), unit: "MB/s"}
	files, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return result, err
	}
	static := &http.Server{Handler: http.FileServer(http.Dir(filepath.Join(dir, "redirecting"))), ReadHeaderTimeout: time.Minute}
	go func() { _ = static.Serve(files) }()
	defer func() { _ = static.Close() }()
	peer, stopPeer, err := startPeer(ctx, dir, "redirecting", "-redirect", "http://"+files.Addr().String())
	if err != nil {
		return result, err
	}
	defer stopPeer()
	front, stopFront, err := startInFront(ctx, filepath.Join(dir, "passing"), peer, "COUNTERSIGN_UPSTREAM_REDIRECTS=pass_through")
	if err != nil {
		return result, err
	}
	defer stopFront()
	s, err := front.open(ctx, 1, "front/redirected")
	if err != nil {
		return result, err
	}
	defer s.close()
	content := make([]byte, o.blob*1_000_000)
	digest := digestOf(content)
	if err := s.pushBig(ctx, content, digest); err != nil {
		return result, err
	}
	if err := s.pushBigImage(ctx, digest, len(content)); err != nil {
		return result, err
	}
	direct := &session{registry: peer, repository: s.repository, client: s.client}
	if result.ours, result.peer, err = alternatePulls(ctx, o, s.anonymous(), direct, digest); err != nil {
		return result, err
	}
	return result, nil
}

// alternatePulls pulls a big blob from two registries in turn and returns the rates in MB/s.
func alternatePulls(ctx context.Context, o options, ours, peer *session, digest string) (oursRates, peerRates []float64, err error) {
	type target struct {
		s     *session
		rates *[]float64
	}
	order := []target{{s: ours, rates: &oursRates}, {s: peer, rates: &peerRates}}
	for range 6 * o.rounds { // a single pull is short
		slices.Reverse(order)
		for _, t := range order {
			began := time.Now()
			if err := t.s.pullBig(ctx, digest, o.blob*1_000_000); err != nil {
				return nil, nil, err
			}
			*t.rates = append(*t.rates, float64(o.blob)/time.Since(began).Seconds())
		}
	}
	return oursRates, peerRates, nil
}
