package metrics

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// otherName stands for tasks of kinds that this program does not know.
const otherName = "other"

// Values are the values of labels whose meaning other packages define.
type Values struct {
	Tasks             []string // names of tasks
	TaskResults       []string
	SignatureResults  []string
	ValidationSources []string
	Validations       []string
	Verifications     []string
	LoginMethods      []string
	LoginResults      []string
	StorageOperations []string
	StorageResults    []string
	Swept             []string
	Peers             []string // kinds of other registries
}

// workMetrics are about the work of this process.
type workMetrics struct {
	values Values

	taskDuration  *prometheus.HistogramVec
	slots, busy   prometheus.Gauge
	signatures    *prometheus.CounterVec
	signing       *prometheus.HistogramVec
	validations   *prometheus.CounterVec
	verifications *prometheus.CounterVec
	logins        *prometheus.CounterVec
	storage       *prometheus.HistogramVec
	swept         *prometheus.CounterVec
	peerRequests  *prometheus.HistogramVec
	peerBytes     *prometheus.CounterVec
}

func newWorkMetrics(r prometheus.Registerer, v Values) workMetrics {
	m := workMetrics{
		values:        v,
		taskDuration:  newHistogram(r, "task_duration_seconds", "Duration of attempts at tasks in this process.", "name", "result"),
		slots:         newGauge(r, "worker_slots", "Tasks that this process can run at a time."),
		busy:          newGauge(r, "worker_busy_slots", "Tasks that this process is running."),
		signatures:    newCounter(r, "signatures_total", "Uses of the keys of signing services by this process.", "service", "result"),
		signing:       newHistogram(r, "signature_duration_seconds", "Duration of successful uses of keys, with the verification of the result.", "service"),
		validations:   newCounter(r, "signature_validations_total", "Signatures from outside that were validated.", "source", "result"),
		verifications: newCounter(r, "verifications_total", "Requests to verify an image.", "result"),
		logins:        newCounter(r, "logins_total", "Credentials of requests that were checked.", "method", "result"),
		storage:       newHistogram(r, "storage_operation_duration_seconds", "Duration of operations of the storage.", "operation", "result"),
		swept:         newCounter(r, "swept_total", "Objects that sweeps deleted.", "kind"),
		peerRequests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "http_client_request_duration_seconds", Help: "Duration of requests to other registries until the headers of the response.", Buckets: buckets,
		}, []string{"peer", "http_request_method", "http_response_status_code"}),
		peerBytes: newCounter(r, "peer_received_bytes_total", "Bytes of the bodies of responses of other registries.", "peer"),
	}
	r.MustRegister(m.peerRequests)
	preset(m.taskDuration, m.taskNames(), v.TaskResults)
	preset(m.validations, v.ValidationSources, v.Validations)
	preset(m.verifications, v.Verifications)
	preset(m.logins, v.LoginMethods, v.LoginResults)
	preset(m.storage, v.StorageOperations, v.StorageResults)
	preset(m.swept, labels(v.Swept))
	preset(m.peerBytes, v.Peers)
	preset(m.peerRequests, v.Peers, []string{http.MethodGet}, []string{"200", noResponse})
	return m
}

// taskNames returns the values of labels with the name of a task.
func (m *workMetrics) taskNames() []string { return append(slices.Clip(m.values.Tasks), otherName) }

// knownTask returns the name of a task, or otherName.
func (m *workMetrics) knownTask(name string) string {
	if slices.Contains(m.values.Tasks, name) {
		return name
	}
	return otherName
}

// labels returns label values for descriptions of several words.
func labels(all []string) []string {
	values := make([]string, len(all))
	for i, text := range all {
		values[i] = strings.ReplaceAll(text, " ", "_")
	}
	return values
}

// SetSlots records the number of tasks that this process can run at a time.
func (m *Metrics) SetSlots(n int) { m.work.slots.Set(float64(n)) }

// TaskStarted records the start of an attempt at a task.
func (m *Metrics) TaskStarted(string) { m.work.busy.Inc() }

// TaskEnded records the end of an attempt.
func (m *Metrics) TaskEnded(name, result string, took time.Duration) {
	m.work.busy.Dec()
	m.work.taskDuration.WithLabelValues(m.work.knownTask(name), result).Observe(took.Seconds())
}

// knowService creates the series of a signing service.
func (m *Metrics) knowService(name string) {
	preset(m.work.signatures, []string{name}, m.work.values.SignatureResults)
	m.work.signing.WithLabelValues(name)
}

// Signed records the use of the key of a signing service. made says whether there is a signature.
func (m *Metrics) Signed(service, result string, made bool, took time.Duration) {
	m.work.signatures.WithLabelValues(service, result).Inc()
	if made {
		m.work.signing.WithLabelValues(service).Observe(took.Seconds())
	}
}

// SignatureValidated records the validation of a signature from outside.
func (m *Metrics) SignatureValidated(source, result string) {
	m.work.validations.WithLabelValues(source, result).Inc()
}

// Verified records a request to verify an image.
func (m *Metrics) Verified(result string) { m.work.verifications.WithLabelValues(result).Inc() }

// Login records a check of credentials.
func (m *Metrics) Login(method, result string) { m.work.logins.WithLabelValues(method, result).Inc() }

// StorageOperation records an operation of the storage.
func (m *Metrics) StorageOperation(operation, result string, took time.Duration) {
	m.work.storage.WithLabelValues(operation, result).Observe(took.Seconds())
}

// Swept records the deletion of objects by a sweep.
func (m *Metrics) Swept(kind string, n int64) {
	m.work.swept.WithLabelValues(strings.ReplaceAll(kind, " ", "_")).Add(float64(n))
}

// Values for the status of a response.
const (
	noResponse  = "none"  // there was no response
	otherStatus = "other" // HTTP does not define it
)

// Peer is a telemetry.ClientObserver for requests to a kind of other registries.
type Peer struct {
	m    *workMetrics
	name string
	in   prometheus.Counter
}

// Peer returns the observer for requests to one of Values.Peers.
func (m *Metrics) Peer(name string) Peer {
	return Peer{&m.work, name, m.work.peerBytes.WithLabelValues(name)}
}

// ClientRequestEnded implements telemetry.ClientObserver.
func (p Peer) ClientRequestEnded(method string, status int, took time.Duration) {
	text := strconv.Itoa(status)
	switch {
	case status == 0:
		text = noResponse
	case http.StatusText(status) == "": // a remote may send any three digits
		text = otherStatus
	}
	p.m.peerRequests.WithLabelValues(p.name, knownMethod(method), text).Observe(took.Seconds())
}

// ClientReceived implements telemetry.ClientObserver.
func (p Peer) ClientReceived(n int) { p.in.Add(float64(n)) }
