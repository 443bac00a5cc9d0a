package app_test

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/countersign/countersign/internal/app/apptest"
	"github.com/countersign/countersign/internal/eventually"
)

// TestExposition runs a server with pushes, pulls, a sign task and a refused login, and compares its metrics with the
// conventions of Prometheus, the tables of docs/metrics.md, and the queries of deploy/monitoring.
func TestExposition(t *testing.T) {
	t.Parallel()
	address := freeAddress(t)
	s := apptest.Start(t, apptest.Load(t, "METRICS_LISTEN="+address))
	s.Push(t, "team/app", "v1")
	s.Get(t, "/v2/team/app/manifests/v1")
	post(t, s, "team/app")
	eventually.True(t, time.Minute, func() bool {
		return strings.Contains(s.Get(t, "/pulp/api/v3/tasks/?state=completed&name=pulp_container.app.tasks.sign.sign").Body, `"count":1`)
	}, "the task ends")
	if status := s.Login(t, "admin", "wrong"); status != http.StatusUnauthorized {
		t.Errorf("a wrong password: status %d", status)
	}
	fetch(t, "http://"+address+"/metrics", "") // the first scrape creates the series of signing services
	_, text := fetch(t, "http://"+address+"/metrics", "")
	for _, want := range []string{
		`countersign_pushes_total{result="done"} 1`,
		`countersign_pulls_total{result="done"} 1`,
		`countersign_blob_bytes_total{direction="in"} 78`,
		`countersign_signatures_total{result="made",service="countersign"} 1`,
		`countersign_signatures_total{result="failed",service="countersign"} 0`,
		`countersign_signature_duration_seconds_count{service="countersign"} 1`,
		`countersign_task_duration_seconds_count{name="pulp_container.app.tasks.sign.sign",result="completed"} 1`,
		`countersign_tasks{name="pulp_container.app.tasks.sign.sign",state="waiting"} 0`,
		`countersign_logins_total{method="password",result="refused"} 1`,
		`countersign_signing_service_workers{service="countersign"} 1`,
		`countersign_dependency_up{dependency="database"} 1`,
		`countersign_dependency_up{dependency="storage"} 1`,
		`countersign_workers 1`,
		`countersign_upload_sessions 0`,
		`countersign_build_info{goversion=`,
	} {
		if !strings.Contains(text, "\n"+want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	compareWithPage(t, text)
	if t.Failed() {
		t.Log(text)
	}
	checkQueries(t, text)
}

// row matches a row of a table of metrics.
var row = regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| (counter|gauge|histogram) \\|([^|]*)\\| [^|]{2,} \\|$")

// compareWithPage compares the names, types and labels of metrics with the tables of the page.
func compareWithPage(t *testing.T, text string) {
	t.Helper()
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for _, m := range row.FindAllStringSubmatch(string(page), -1) {
		want[m[1]] = m[2] + " " + strings.NewReplacer("`", "", " ", "").Replace(m[3])
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for name, f := range families {
		if strings.HasPrefix(name, "countersign_") || strings.HasPrefix(name, "http_") {
			got[name] = strings.ToLower(f.GetType().String()) + " " + strings.Join(labelsOf(f), ",")
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("docs/metrics.md and the metrics differ (-page +metrics):\n%s", diff)
	}
}

// labelsOf returns the names of a metric's labels, sorted.
func labelsOf(f *dto.MetricFamily) []string {
	var names []string
	for _, m := range f.GetMetric() {
		for _, l := range m.GetLabel() {
			names = append(names, l.GetName())
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// unreachable are parts of the messages of the go command when it cannot download a module.
var unreachable = []string{"dial tcp", "lookup ", "module lookup disabled", "i/o timeout", "TLS handshake", "proxyconnect"}

// checkQueries compares the queries of the dashboard and the alert rules with the metrics. Prometheus' own parser, a module
// of its own, reads them.
func checkQueries(t *testing.T, text string) {
	t.Helper()
	tool, err := exec.LookPath("go")
	if testing.Short() || err != nil {
		t.Log("the queries were not checked: that needs the go command, and some time")
		return
	}
	scraped := filepath.Join(t.TempDir(), "metrics.txt")
	if err := os.WriteFile(scraped, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	const dir = "../../deploy/monitoring"
	run := func(files ...string) (string, error) {
		c := exec.CommandContext(t.Context(), tool, append([]string{"run", "-mod=readonly", ".", scraped}, files...)...)
		c.Dir, c.Env = filepath.Join(dir, "check"), append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=")
		out, err := c.CombinedOutput()
		return string(out), err
	}
	out, err := run("../dashboard.json", "../alerts.yaml")
	if slices.ContainsFunc(unreachable, func(part string) bool { return strings.Contains(out, part) }) {
		t.Skipf("the modules of the check cannot be fetched: %s", out)
	}
	if err != nil {
		t.Errorf("deploy/monitoring: %v\n%s", err, out)
	}
	out, err = run("testdata/bad.json", "testdata/bad.yaml")
	for _, want := range []string{
		"there is no metric countersign_absent", "no label repository", `no series with result="never"`, "not within rate", "has the label color", "parse error",
	} {
		if err == nil || !strings.Contains(out, want) {
			t.Errorf("the check does not find the planted fault %q: %v\n%s", want, err, out)
		}
	}
}
