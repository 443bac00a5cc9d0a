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

// compareUpstream measures the product in front of bare distribution against the same bare distribution reached directly, and pulls once more where the upstream sends
// clients elsewhere for the bytes of blobs.
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
	fmt.Fprintln(out, "\nin front of distribution, and that distribution reached directly")
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

// redirectedPulls measures pulls of a big blob that distribution hands to a server of files, and the product hands on.
func redirectedPulls(ctx context.Context, o options, dir string) (row, error) {
	result := row{what: fmt.Sprintf("%d MB blob down, redirected", o.blob), unit: "MB/s"}
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
	front, stopFront, err := startInFront(ctx, filepath.Join(dir, "handing"), peer, "COUNTERSIGN_UPSTREAM_REDIRECTS=pass_through")
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
	type pulls struct {
		s     *session
		speed *[]float64
	}
	order := []pulls{{s.anonymous(), &result.ours}, {direct, &result.peer}}
	for range 6 * o.rounds { // a pull is short
		slices.Reverse(order)
		for _, one := range order {
			began := time.Now()
			if err := one.s.pullBig(ctx, digest, len(content)); err != nil {
				return result, err
			}
			*one.speed = append(*one.speed, float64(o.blob)/time.Since(began).Seconds())
		}
	}
	return result, nil
}
