package metrics

import (
	"math"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, labels, nil)
}

// Descriptions of states.
var (
	descTasks       = describe("tasks", "Tasks that have not ended, the same in all processes.", "name", "state")
	descQueue       = describe("task_queue_length", "Tasks that wait for nothing but a worker, the same in all processes.", "name")
	descOldest      = describe("task_oldest_waiting_seconds", "Age of the oldest waiting task, the same in all processes.", "name")
	descOldestReady = describe("task_oldest_ready_seconds",
		"Time for which the first of the tasks in the queue has waited for a worker, the same in all processes.", "name")
	descWorkers        = describe("workers", "Workers with a recent heartbeat, the same in all processes.")
	descServiceWorkers = describe("signing_service_workers", "Workers that can use the key of a signing service, the same in all processes.", "service")
	descKeyExpiry      = describe("signing_key_expiry_timestamp_seconds", "Time at which the key of a signing service expires; +Inf: never.", "service")
	descUploads        = describe("upload_sessions", "Uploads of blobs that clients have begun and not ended, the same in all processes.")
	descOutbox         = describe("outbox_tags", "Tags that wait to be written to the upstream, the same in all processes.")
	descOutboxOldest   = describe("outbox_oldest_seconds", "Time for which the first tag in the outbox has waited, the same in all processes.")
	descUp             = describe("dependency_up", "Whether a system that the program depends on answers: 1 or 0.", "dependency")
	descConnections    = describe("database_connections", "Connections to the database.", "state")
	descMaxConnections = describe("database_max_connections", "Limit of connections to the database.")
	descWaits          = describe("database_connection_waits_total", "Waits for a connection to the database.")
	descWaited         = describe("database_connection_wait_seconds_total", "Time of waits for a connection to the database.")
	descQueued         = describe("database_queued_writes", "Writes that wait for the writer of SQLite.")
	descAuditQueue     = describe("audit_queue_rows", "Entries of the audit log that the database does not have yet.")
	descAuditLost      = describe("audit_lost_rows_total", "Entries of the audit log that the database did not take in time.")
	descCertificate    = describe("tls_certificate_expiry_timestamp_seconds",
		"Time at which the first certificate of the server's chain expires; +Inf: the process does not terminate TLS.")
	descSize = describe("data_filesystem_size_bytes", "Size of the file system of the data directory.")
	descFree = describe("data_filesystem_free_bytes", "Space of the file system of the data directory that the program can use.")
)

// states are the states of tasks that have not ended.
var states = []string{"waiting", "running", "canceling"}

// stateCollector reads states at a scrape. States that cannot be read are missing from it.
type stateCollector struct {
	sources Sources
	metrics *Metrics
	stored  *kept[Stored]
	space   *kept[Space]
	up      map[string]*kept[struct{}]
}

// Describe implements prometheus.Collector. A collector without descriptions may leave out states.
func (c *stateCollector) Describe(chan<- *prometheus.Desc) {}

// emit sends one value.
type emit func(d *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string)

func (e emit) gauge(d *prometheus.Desc, value float64, labels ...string) {
	e(d, prometheus.GaugeValue, value, labels...)
}

func (e emit) counter(d *prometheus.Desc, value float64) { e(d, prometheus.CounterValue, value) }

// Collect implements prometheus.Collector.
func (c *stateCollector) Collect(to chan<- prometheus.Metric) {
	e := emit(func(d *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, kind, value, labels...)
	})
	var slow sync.WaitGroup // of states that systems which do not answer delay
	slow.Go(func() { c.collectStored(e) })
	slow.Go(func() { c.collectSpace(e) })
	for name, k := range c.up {
		slow.Go(func() { collectUp(e, name, k) })
	}
	defer slow.Wait()
	if c.sources.Pool != nil {
		collectPool(e, c.sources.Pool())
	}
	if c.sources.Audit != nil {
		waiting, lost := c.sources.Audit()
		e.gauge(descAuditQueue, float64(waiting))
		e.counter(descAuditLost, float64(lost))
	}
	var expiry time.Time
	if c.sources.Certificate != nil {
		expiry = c.sources.Certificate()
	}
	e.gauge(descCertificate, timestamp(expiry))
}

// collectUp checks a dependency.
func collectUp(e emit, name string, k *kept[struct{}]) {
	up := 1.0
	if _, err := k.get(); err != nil {
		up = 0
	}
	e.gauge(descUp, up, name)
}

// collectSpace sends the size of the data directory's file system.
func (c *stateCollector) collectSpace(e emit) {
	if c.space == nil {
		return
	}
	if s, err := c.space.get(); err == nil {
		e.gauge(descSize, float64(s.Size))
		e.gauge(descFree, float64(s.Free))
	}
}

// collectStored sends the state of the database.
func (c *stateCollector) collectStored(e emit) {
	if c.stored == nil {
		return
	}
	s, err := c.stored.get()
	if err != nil {
		c.metrics.unread.Inc()
		return
	}
	c.collectTasks(e, s.Tasks)
	e.gauge(descWorkers, float64(s.Workers))
	for _, v := range s.Services {
		c.metrics.knowService(v.Name)
		e.gauge(descServiceWorkers, float64(v.Workers), v.Name)
		e.gauge(descKeyExpiry, timestamp(v.Expires), v.Name)
	}
	e.gauge(descUploads, float64(s.Uploads))
	e.gauge(descOutbox, float64(s.Outbox))
	e.gauge(descOutboxOldest, s.OutboxOldest.Seconds())
}

// collectTasks sends the counts of all names and states, also of those without a task.
func (c *stateCollector) collectTasks(e emit, counts []TaskCount) {
	type key struct{ name, state string }
	tasks := map[key]int64{}
	queue, oldest, ready := map[string]int64{}, map[string]time.Duration{}, map[string]time.Duration{}
	for _, n := range counts {
		name := c.metrics.work.knownTask(n.Name)
		tasks[key{name, n.State}] += n.Tasks
		queue[name] += n.Ready
		ready[name] = max(ready[name], n.OldestReady)
		if n.State == states[0] {
			oldest[name] = max(oldest[name], n.Oldest)
		}
	}
	for _, name := range c.metrics.work.taskNames() {
		for _, state := range states {
			e.gauge(descTasks, float64(tasks[key{name, state}]), name, state)
		}
		e.gauge(descQueue, float64(queue[name]), name)
		e.gauge(descOldest, oldest[name].Seconds(), name)
		e.gauge(descOldestReady, ready[name].Seconds(), name)
	}
}

func collectPool(e emit, p Pool) {
	e.gauge(descConnections, float64(p.InUse), "in_use")
	e.gauge(descConnections, float64(p.Idle), "idle")
	e.gauge(descMaxConnections, float64(p.Max))
	e.counter(descWaits, float64(p.Waits))
	e.counter(descWaited, p.Waited.Seconds())
	e.gauge(descQueued, float64(p.Queued))
}

// timestamp returns a time in seconds since 1970, and infinity for the zero time.
func timestamp(t time.Time) float64 {
	if t.IsZero() {
		return math.Inf(1)
	}
	return float64(t.UnixMilli()) / 1e3
}
