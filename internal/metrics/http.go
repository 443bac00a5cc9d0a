package metrics

import (
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/countersign/countersign/internal/telemetry"
)

const (
	// otherMethod stands for methods that HTTP does not define. The name is that of OpenTelemetry's conventions.
	otherMethod = "_OTHER"
	// noRoute stands for paths without a route.
	noRoute = "unmatched"
)

// Routes of the registry whose bodies are blobs and manifests.
const (
	blobRoute     = "/v2/{name}/blobs/{digest}"
	uploadsRoute  = "/v2/{name}/blobs/uploads/"
	uploadRoute   = "/v2/{name}/blobs/uploads/{uuid}"
	manifestRoute = "/v2/{name}/manifests/{reference}"
)

// methods are the methods that have label values of their own.
var methods = map[string]bool{
	http.MethodGet: true, http.MethodHead: true, http.MethodPost: true, http.MethodPut: true, http.MethodPatch: true,
	http.MethodDelete: true, http.MethodOptions: true, http.MethodConnect: true, http.MethodTrace: true,
}

// usual are exchanges whose series exist from the start.
var usual = []struct {
	method, route string
	statuses      []int
}{
	{http.MethodGet, "/v2/", []int{200, 401}},
	{http.MethodGet, "/token/", []int{200, 401, 429, 500, 503}},
	{http.MethodPost, "/token/", []int{200, 401, 429, 500, 503}},
	{http.MethodHead, blobRoute, []int{200, 401, 404, 500, 503}},
	{http.MethodGet, blobRoute, []int{200, 206, 401, 404, 500, 503}},
	{http.MethodPost, uploadsRoute, []int{201, 202, 401, 500, 503}},
	{http.MethodPatch, uploadRoute, []int{202, 404, 416, 500, 503}},
	{http.MethodPut, uploadRoute, []int{201, 400, 404, 500, 503}},
	{http.MethodHead, manifestRoute, []int{200, 401, 404, 500, 503}},
	{http.MethodGet, manifestRoute, []int{200, 401, 404, 500, 503}},
	{http.MethodPut, manifestRoute, []int{201, 400, 401, 500, 503}},
	{http.MethodGet, "/extensions/v2/{name}/signatures/{digest}", []int{200, 404, 500, 503}},
	{http.MethodPut, "/extensions/v2/{name}/signatures/{digest}", []int{201, 400, 500, 503}},
	{http.MethodGet, noRoute, []int{404}},
}

// Results of pushes and pulls.
const (
	resultDone    = "done"
	resultRefused = "refused"
	resultFailed  = "failed"
)

// httpMetrics are about the requests of clients.
type httpMetrics struct {
	duration *prometheus.HistogramVec
	active   *prometheus.GaugeVec
	received prometheus.Counter
	sent     prometheus.Counter
	pushes   *prometheus.CounterVec
	pulls    *prometheus.CounterVec
}

func newHTTPMetrics(r prometheus.Registerer) httpMetrics {
	bytes := newCounter(r, "blob_bytes_total", "Bytes of blobs that clients sent (in) and received (out).", "direction")
	m := httpMetrics{
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "http_server_request_duration_seconds", Help: "Duration of requests until the end of the response.", Buckets: buckets,
		}, []string{"http_request_method", "http_route", "http_response_status_code"}),
		active: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "http_server_active_requests", Help: "Requests that are being handled.",
		}, []string{"http_request_method"}),
		received: bytes.WithLabelValues("in"),
		sent:     bytes.WithLabelValues("out"),
		pushes:   newCounter(r, "pushes_total", "Manifests that clients pushed.", "result"),
		pulls:    newCounter(r, "pulls_total", "Manifests that clients pulled.", "result"),
	}
	r.MustRegister(m.duration, m.active)
	for method := range methods {
		m.active.WithLabelValues(method)
	}
	m.active.WithLabelValues(otherMethod)
	for _, u := range usual {
		for _, status := range u.statuses {
			m.duration.WithLabelValues(u.method, u.route, strconv.Itoa(status))
		}
	}
	preset(m.pushes, []string{resultDone, resultRefused, resultFailed})
	preset(m.pulls, []string{resultDone, resultRefused, resultFailed})
	return m
}

// RequestStarted implements telemetry.Observer.
func (m *Metrics) RequestStarted(method string) {
	m.http.active.WithLabelValues(knownMethod(method)).Inc()
}

// RequestEnded implements telemetry.Observer.
func (m *Metrics) RequestEnded(e telemetry.Exchange) {
	method, route := knownMethod(e.Method), e.Route
	if route == "" {
		route = noRoute
	}
	m.http.active.WithLabelValues(method).Dec()
	m.http.duration.WithLabelValues(method, route, strconv.Itoa(e.Status)).Observe(e.Took.Seconds())
	switch {
	case route == uploadRoute || route == uploadsRoute:
		m.http.received.Add(float64(e.Received))
	case route == blobRoute && method == http.MethodGet && e.Status < http.StatusMultipleChoices:
		m.http.sent.Add(float64(e.Sent))
	case route == manifestRoute && method == http.MethodGet:
		m.http.pulls.WithLabelValues(resultOf(e.Status)).Inc()
	case route == manifestRoute && method == http.MethodPut:
		m.http.pushes.WithLabelValues(resultOf(e.Status)).Inc()
	}
}

// knownMethod returns a method, or otherMethod for one that has no label value.
func knownMethod(method string) string {
	if methods[method] {
		return method
	}
	return otherMethod
}

// resultOf returns the result of a push or a pull with a status.
func resultOf(status int) string {
	switch {
	case status >= http.StatusInternalServerError:
		return resultFailed
	case status >= http.StatusBadRequest:
		return resultRefused
	}
	return resultDone
}
