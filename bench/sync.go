package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	gzipLayerType = "application/vnd.oci.image.layer.v1.tar+gzip"
	layerSize     = 40_000 // size of a layer in bytes; each image has two
	pollTask      = 10 * time.Millisecond
	maxTask       = 10 * time.Minute
)

// compareSyncs compares a first sync and a second one without changes with skopeo sync from the same source into bare
// distribution. It also measures a copy of a repository with 1,000 images.
func compareSyncs(ctx context.Context, o options, out io.Writer, ours, peer, source *registry, dir string) error {
	skopeo, err := exec.LookPath("skopeo")
	if err != nil {
		fmt.Fprintln(out, "\nsyncs were not measured: skopeo is not installed")
		return nil //nolint:nilerr // reported in the output
	}
	rows := []row{{name: fmt.Sprintf("first sync of %d images", o.images), unit: " ms"}, {name: "second sync, unchanged", unit: " ms"}}
	for round := range o.rounds {
		repository := fmt.Sprintf("sync/round-%d", round)
		if err := source.fillSource(ctx, o, repository); err != nil {
			return fmt.Errorf("fill the source: %w", err)
		}
		us := func() error {
			first, second, err := ours.syncTwice(ctx, source, repository)
			rows[0].ours, rows[1].ours = append(rows[0].ours, ms(first)), append(rows[1].ours, ms(second))
			return err
		}
		them := func() error {
			for i := range 2 {
				began := time.Now()
				run := exec.CommandContext(ctx, skopeo, "--policy", filepath.Join(dir, "policy.json"), "sync", "--src", "docker", "--dest", "docker",
					"--src-tls-verify=false", "--dest-tls-verify=false", "--preserve-digests",
					strings.TrimPrefix(source.base, "http://")+"/"+repository, strings.TrimPrefix(peer.base, "http://")+"/"+repository)
				if output, err := run.CombinedOutput(); err != nil {
					return fmt.Errorf("skopeo sync: %w: %.500s", err, output)
				}
				rows[i].peer = append(rows[i].peer, ms(time.Since(began)))
			}
			return nil
		}
		order := []func() error{us, them}
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, f := range order {
			if err := f(); err != nil {
				return err
			}
		}
	}
	fmt.Fprintf(out, "\n%-32s %28s %28s %8s\n", "", "countersign", "skopeo sync", "faster")
	for _, r := range rows {
		fmt.Fprintf(out, "%-32s %28s %28s %7.1fx\n", r.name, spread(r.ours, r.unit), spread(r.peer, r.unit), median(r.peer)/median(r.ours))
	}
	return copyRepository(ctx, o, out, ours, source)
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// fillSource pushes images with a new config and two new gzipped layers each.
func (r *registry) fillSource(ctx context.Context, o options, repository string) error {
	s, err := r.open(ctx, o.clients, repository)
	if err != nil {
		return err
	}
	defer s.close()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(o.clients)
	for n := range o.images {
		group.Go(func() error { return s.pushGzipped(ctx, fmt.Sprintf("n%d", n)) })
	}
	return group.Wait()
}

func (s *session) pushGzipped(ctx context.Context, tag string) error {
	m := manifest{SchemaVersion: 2, MediaType: manifestType}
	var diffs []string
	for l := range 2 {
		content := make([]byte, layerSize)
		if _, err := rand.NewChaCha8(sha256.Sum256(fmt.Appendf(nil, "%s:%s:%d", s.repository, tag, l))).Read(content); err != nil {
			return err
		}
		var packed bytes.Buffer
		z := gzip.NewWriter(&packed)
		_, err := z.Write(content)
		if err = errors.Join(err, z.Close()); err != nil {
			return err
		}
		diffs = append(diffs, digestOf(content))
		d := descriptor{gzipLayerType, digestOf(packed.Bytes()), packed.Len()}
		m.Layers = append(m.Layers, d)
		if err := s.pushBlob(ctx, packed.Bytes(), d.Digest); err != nil {
			return err
		}
	}
	config, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux", "author": s.repository + tag, "rootfs": map[string]any{"type": "layers", "diff_ids": diffs},
	})
	if err != nil {
		return err
	}
	m.Config = descriptor{configType, digestOf(config), len(config)}
	if err := s.pushBlob(ctx, config, m.Config.Digest); err != nil {
		return err
	}
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	_, err = s.do(ctx, http.MethodPut, s.path("/manifests/"+tag), manifestType, text, http.StatusCreated)
	return err
}

// syncTwice creates a repository with a remote and syncs it twice. It returns the durations.
func (r *registry) syncTwice(ctx context.Context, source *registry, repository string) (first, second time.Duration, err error) {
	remote, err := r.create(ctx, "remotes/container/container/", map[string]any{"name": repository, "url": source.base, "upstream_name": repository})
	if err != nil {
		return 0, 0, err
	}
	mirror, err := r.create(ctx, "repositories/container/container/", map[string]any{"name": "mirror/" + repository, "remote": remote})
	if err != nil {
		return 0, 0, err
	}
	if first, err = r.task(ctx, mirror+"sync/", map[string]any{}); err != nil {
		return 0, 0, err
	}
	second, err = r.task(ctx, mirror+"sync/", map[string]any{})
	return first, second, err
}

// copyRepository syncs a repository with 1,000 images and measures copies of its tags to empty repositories.
func copyRepository(ctx context.Context, o options, out io.Writer, ours, source *registry) error {
	const images = 1000
	o.images = images
	if err := source.fillSource(ctx, o, "sync/thousand"); err != nil {
		return err
	}
	if _, _, err := ours.syncTwice(ctx, source, "sync/thousand"); err != nil {
		return err
	}
	var times []float64
	for round := range o.rounds {
		to, err := ours.create(ctx, "repositories/container/container/", map[string]any{"name": fmt.Sprintf("copy/%d", round)})
		if err != nil {
			return err
		}
		from, err := ours.find(ctx, "repositories/container/container/?name=mirror/sync/thousand")
		if err != nil {
			return err
		}
		took, err := ours.task(ctx, to+"copy_tags/", map[string]any{"source_repository": from})
		if err != nil {
			return err
		}
		times = append(times, ms(took))
	}
	_, err := fmt.Fprintf(out, "\ncopy of a repository with %d images: %s\n", images, spread(times, " ms"))
	return err
}

// rest sends a request to the REST API and decodes the response. A status other than want is an error.
func (r *registry) rest(ctx context.Context, method, path string, body any, want int, answer any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(path, "/") {
		path = "/pulp/api/v3/" + path
	}
	request, err := http.NewRequestWithContext(ctx, method, r.base+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	request.SetBasicAuth(r.user, r.password)
	request.Header.Set("Content-Type", "application/json")
	s := &session{registry: r, client: http.DefaultClient}
	_, got, err := s.send(request, want)
	if err != nil {
		return err
	}
	return json.Unmarshal(got, answer)
}

// create creates an object and returns its pulp_href.
func (r *registry) create(ctx context.Context, collection string, fields map[string]any) (href string, err error) {
	var made struct {
		Href string `json:"pulp_href"`
	}
	err = r.rest(ctx, http.MethodPost, collection, fields, http.StatusCreated, &made)
	return made.Href, err
}

// find returns the pulp_href of the only object that a query returns.
func (r *registry) find(ctx context.Context, query string) (href string, err error) {
	var page struct {
		Results []struct {
			Href string `json:"pulp_href"`
		} `json:"results"`
	}
	if err := r.rest(ctx, http.MethodGet, query, nil, http.StatusOK, &page); err != nil {
		return "", err
	}
	if len(page.Results) != 1 {
		return "", fmt.Errorf("%s returns %d objects, want 1", query, len(page.Results))
	}
	return page.Results[0].Href, nil
}

// task starts a task with POST, waits for its end and returns the duration.
func (r *registry) task(ctx context.Context, action string, fields map[string]any) (time.Duration, error) {
	return r.taskBy(ctx, http.MethodPost, action, fields)
}

// taskBy is task with another method.
func (r *registry) taskBy(ctx context.Context, method, action string, fields map[string]any) (time.Duration, error) {
	began := time.Now()
	var accepted struct{ Task string }
	if err := r.rest(ctx, method, action, fields, http.StatusAccepted, &accepted); err != nil {
		return 0, err
	}
	for time.Since(began) < maxTask {
		var t struct {
			State string
			Error any
		}
		if err := r.rest(ctx, http.MethodGet, accepted.Task, nil, http.StatusOK, &t); err != nil {
			return 0, err
		}
		switch t.State {
		case "completed":
			return time.Since(began), nil
		case "failed", "canceled":
			return 0, fmt.Errorf("%s: the task %s: %v", action, t.State, t.Error)
		}
		time.Sleep(pollTask)
	}
	return 0, fmt.Errorf("%s: the task does not end", action)
}
