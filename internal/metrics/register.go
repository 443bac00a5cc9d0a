package metrics

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

func newCounter(r prometheus.Registerer, name, help string, labels ...string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
	r.MustRegister(v)
	return v
}

func newGauge(r prometheus.Registerer, name, help string) prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help})
	r.MustRegister(g)
	return g
}

func newHistogram(r prometheus.Registerer, name, help string, labels ...string) *prometheus.HistogramVec {
	v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: buckets}, labels)
	r.MustRegister(v)
	return v
}

// preset creates the series of a vector with all combinations of label values, one list for each label.
func preset[T any](v interface{ WithLabelValues(...string) T }, values ...[]string) {
	series := [][]string{nil}
	for _, list := range values {
		var longer [][]string
		for _, chosen := range series {
			for _, value := range list {
				longer = append(longer, append(slices.Clip(chosen), value))
			}
		}
		series = longer
	}
	for _, chosen := range series {
		v.WithLabelValues(chosen...)
	}
}
