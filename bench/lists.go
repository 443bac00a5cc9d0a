package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/countersign/countersign/integration/process"
	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/pgtest"
)

// listPages is the number of pages of each list that are measured, from its beginning.
const listPages = 10

// listQuery is a list with parameters. Its pages are measured, and for a deep one only the page at an offset.
type listQuery struct {
	kind, path string
	deep       bool
}

func (z listSizes) queries() []listQuery {
	repository := func(id string) string {
		return url.QueryEscape("/pulp/api/v3/repositories/container/container/" + id + "/")
	}
	const content = "content/container/"
	all := []listQuery{
		{kind: "unfiltered", path: "tasks/?"},
		{kind: "unfiltered", path: "repositories/container/container-push/?"},
		{kind: "unfiltered", path: "repository_versions/?"},
		{kind: "unfiltered", path: "distributions/container/container/?"},
		{kind: "unfiltered", path: content + "tags/?"},
		{kind: "unfiltered", path: content + "manifests/?"},
		{kind: "unfiltered", path: content + "blobs/?"},
		{kind: "unfiltered", path: content + "signatures/?"},
		{kind: "filtered", path: "tasks/?state=completed"},
		{kind: "filtered", path: "tasks/?state=failed"},
		{kind: "filtered", path: "tasks/?name=pulp_container.app.tasks.sign.sign"},
		{kind: "filtered", path: "tasks/?reserved_resources=" + repository("r-000000000007")},
		{kind: "filtered", path: content + "tags/?name=latest"},
		{kind: "filtered", path: content + "manifests/?media_type=" + url.QueryEscape("application/vnd.oci.image.index.v1+json")},
		{kind: "filtered", path: content + "signatures/?key_id=D1B86E06B4D88881"},
		{kind: "version", path: content + "manifests/?repository_version=" + repository("r-000000000003") + "versions/1/"},
		{kind: "contains", path: "repositories/?name__contains=app99"},
		{kind: "contains", path: "tasks/?name__contains=sign"},
		{kind: "regex", path: "repositories/?name__regex=" + url.QueryEscape("^team[0-9]+/app.*77$")},
	}
	for _, path := range []string{"tasks/?", content + "manifests/?"} {
		all = append(all, listQuery{kind: "deep offset", path: path + fmt.Sprintf("offset=%d&", z.units/5), deep: true})
	}
	return all
}

// compareLists measures lists of a database with many rows, on each engine, for an administrator, a user with many roles and
// a user with a role for all objects, while namespaces are created.
func compareLists(ctx context.Context, o options, out io.Writer, dir string) error {
	z := listSizes{repositories: max(o.rows/10, 100), units: o.rows, tasks: o.rows}
	fmt.Fprintf(out, "\nlists: %d repositories, %d content units, %d tasks; %d rows a page; p50 and p99 of %d rounds of the first %d pages\n",
		z.repositories, z.units, z.tasks, 100, o.rounds, listPages)
	program, err := process.Build(ctx, dir, ".", "-trimpath")
	if err != nil {
		return err
	}
	at := filepath.Join(dir, "lists")
	if err := os.MkdirAll(filepath.Join(at, "data"), 0o700); err != nil {
		return err
	}
	file := filepath.Join(at, "data", "lists.db")
	if err := measureLists(ctx, o, out, z, program, at, "SQLite", "sqlite", "file:"+file, "sqlite:"+file); err != nil {
		return err
	}
	source, stop, err := pgtest.Durable()
	if err != nil {
		_, err := fmt.Fprintln(out, "lists on PostgreSQL were not measured:", err)
		return err
	}
	defer stop()
	return measureLists(ctx, o, out, z, program, at, "PostgreSQL", "pgx", source, source)
}

// measureLists is compareLists on one engine.
func measureLists(
	ctx context.Context, o options, out io.Writer, z listSizes, program, dir, engine, driver, source, setting string,
) error {
	migrate := exec.CommandContext(ctx, program, "migrate")
	migrate.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "COUNTERSIGN_DATA=" + filepath.Join(dir, "data"), "COUNTERSIGN_DATABASE_URL=" + setting,
	}
	if output, err := migrate.CombinedOutput(); err != nil {
		return fmt.Errorf("migrate: %w: %s", err, output)
	}
	began := time.Now()
	if err := fillLists(ctx, driver, source, z); err != nil {
		return err
	}
	hash, err := auth.HashPassword(password)
	if err != nil {
		return err
	}
	if err := execute(ctx, driver, source, []statement{{
		`UPDATE account SET password_hash = $1 WHERE username IN ($2, $3)`, []any{hash, listOwner, listViewer},
	}}); err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%s, filled in %v\n", engine, time.Since(began).Round(time.Second))
	r, stop, err := startProgram(ctx, program, dir, "COUNTERSIGN_DATABASE_URL="+setting)
	if err != nil {
		return err
	}
	defer stop()
	table := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "kind\tlist\tcaller\tcount\tp50\tp99\tfirst")
	writes, stopWrites := writeBeside(ctx, r)
	for _, q := range z.queries() {
		for _, caller := range []string{"admin", listOwner, listViewer} {
			m, err := measureList(ctx, o, r, q, caller)
			if err != nil {
				stopWrites()
				return fmt.Errorf("%s as %s: %w", q.path, caller, err)
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%v\t%v\t%v\n", q.kind, strings.TrimRight(q.path, "?&"), caller, m.count,
				percentile(m.took, 50), percentile(m.took, 99), m.first.Round(10*time.Microsecond))
		}
	}
	stopWrites()
	took, err := writes()
	if err != nil {
		return err
	}
	if err := table.Flush(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%d namespaces were created meanwhile: p50 %v, p99 %v, longest %v\n",
		len(took), percentile(took, 50), percentile(took, 99), percentile(took, 100))
	return err
}

// percentile returns a percentile of sorted or unsorted times, 0 without any.
func percentile(times []time.Duration, percent int) time.Duration {
	if len(times) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(times))
	return sorted[min(len(sorted)*percent/100, len(sorted)-1)].Round(10 * time.Microsecond)
}

// listTimes are the durations of the requests of one list.
type listTimes struct {
	count int64
	first time.Duration // of the first request, with nothing cached; it is not among took
	took  []time.Duration
}

// measureList measures a list for a caller.
func measureList(ctx context.Context, o options, r *registry, q listQuery, caller string) (listTimes, error) {
	var m listTimes
	as := *r
	as.user = caller
	for round := range o.rounds {
		for page := range listPages {
			path := q.path
			if !q.deep {
				path += fmt.Sprintf("&limit=100&offset=%d", page*100)
			}
			var got struct {
				Count   int64             `json:"count"`
				Results []json.RawMessage `json:"results"`
			}
			began := time.Now()
			if err := as.rest(ctx, http.MethodGet, path, nil, http.StatusOK, &got); err != nil {
				return m, err
			}
			took := time.Since(began)
			if round == 0 && page == 0 {
				m.first, m.count = took, got.Count
				continue
			}
			m.took = append(m.took, took)
			if q.deep && page >= 2 { // each takes long
				break
			}
		}
	}
	return m, nil
}

// writeBeside creates namespaces one after the other until stop is called. times waits for the end and returns their
// durations.
func writeBeside(ctx context.Context, r *registry) (times func() ([]time.Duration, error), stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var took []time.Duration
	ended := make(chan error, 1)
	go func() {
		for n := 0; ctx.Err() == nil; n++ {
			began := time.Now()
			_, err := r.create(ctx, "pulp_container/namespaces/", map[string]any{"name": fmt.Sprintf("bench%d", n)})
			switch {
			case ctx.Err() != nil:
				continue
			case err != nil:
				ended <- err
				return
			}
			took = append(took, time.Since(began))
			time.Sleep(20 * time.Millisecond)
		}
		ended <- nil
	}()
	return func() ([]time.Duration, error) {
		err := <-ended
		if errors.Is(err, context.Canceled) {
			err = nil
		}
		return took, err
	}, cancel
}
