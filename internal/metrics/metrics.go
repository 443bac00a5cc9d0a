// Package metrics owns the metrics of the program: their names, labels and buckets, and the handler that exposes them.
// No other package imports the Prometheus libraries.
//
// Packages that do the work have optional hooks, functions or small interfaces that they declare themselves; internal/app
// connects them with methods of Metrics. The state of the database and of other systems is read at a scrape, with limits:
// see State.
//
// Names follow Prometheus' conventions: base units, _total for counters. All labels have bounded values: no repository, tag,
// digest, account or address. Series exist from the start where their label values are known, so that the first event is
// visible in a rate.
package metrics

import (
	"log/slog"
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// namespace begins the names of the program's own metrics.
const namespace = "countersign"

// scrapeTimeout limits a scrape. Reading the state takes less: see stateTimeout.
const scrapeTimeout = 15 * time.Second

// maxScrapes is the number of scrapes at a time.
const maxScrapes = 4

// buckets are the upper bounds of durations in seconds. Pushes of large blobs and tasks take minutes.
var buckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300}

// Options are the dependencies of Metrics.
type Options struct {
	Version string
	Log     *slog.Logger
	Values  Values
}

// Metrics holds the metrics of a process. It is safe for concurrent use.
type Metrics struct {
	registry *prometheus.Registry
	log      *slog.Logger
	http     httpMetrics
	work     workMetrics
	unread   prometheus.Counter
}

// New returns the metrics of a process.
func New(o Options) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), log: o.Log}
	m.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		buildInfo(o.Version),
	)
	m.http = newHTTPMetrics(m.registry)
	m.work = newWorkMetrics(m.registry, o.Values)
	m.unread = prometheus.NewCounter(prometheus.CounterOpts{
		Namespace: namespace, Name: "state_read_failures_total",
		Help: "Scrapes without the states of the database, which could not be read.",
	})
	m.registry.MustRegister(m.unread)
	return m
}

// buildInfo returns a gauge that describes the program in its labels.
func buildInfo(version string) prometheus.Collector {
	g := prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: namespace, Name: "build_info", Help: "Always 1. The labels describe the program.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()},
	})
	g.Set(1)
	return g
}

// Handler returns the handler that exposes the metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorLog: scrapeLog{m.log}, ErrorHandling: promhttp.ContinueOnError, Registry: m.registry,
		MaxRequestsInFlight: maxScrapes, Timeout: scrapeTimeout,
	})
}

// scrapeLog writes the errors of scrapes to the log.
type scrapeLog struct{ log *slog.Logger }

// Println implements promhttp.Logger.
func (l scrapeLog) Println(v ...any) {
	for _, x := range v {
		if err, ok := x.(error); ok {
			l.log.Error("a scrape is incomplete", slog.Any("err", err))
		}
	}
}
