package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// variables are Grafana's in queries.
var variables = regexp.MustCompile(`\$\{?([a-zA-Z_]+)\}?`)

// fill replaces variables, so that a query can be parsed.
func fill(expr string) string {
	return variables.ReplaceAllStringFunc(expr, func(v string) string {
		if strings.HasPrefix(strings.Trim(v, "${}"), "__") { // an interval
			return "5m"
		}
		return ".*"
	})
}

// added are labels that Prometheus adds, and those of parts of histograms.
var added = []string{"job", "instance", "namespace", "pod", "le", "__name__"}

// elsewhere are metrics of Prometheus itself.
var elsewhere = []string{"up"}

// rates are the functions that counters may be in.
var rates = []string{"rate", "irate", "increase", "resets", "absent", "absent_over_time"}

// check returns the problems of a query.
func check(families map[string]*dto.MetricFamily, expr string, used map[string]bool) (problems []string) {
	e, err := parser.NewParser(parser.Options{}).ParseExpr(fill(expr))
	if err != nil {
		return []string{err.Error()}
	}
	known := slices.Clone(added)
	parser.Inspect(e, func(n parser.Node, path []parser.Node) error {
		s, ok := n.(*parser.VectorSelector)
		if !ok || slices.Contains(elsewhere, s.Name) {
			return nil
		}
		f, part := family(families, s.Name)
		if f == nil {
			problems = append(problems, "there is no metric "+s.Name)
			return nil
		}
		used[f.GetName()] = true
		own := append(names(f), added...)
		known = append(known, own...)
		problems = append(problems, matchers(f, s, own)...)
		counts := f.GetType() == dto.MetricType_COUNTER || part
		if counts && !slices.ContainsFunc(path, isRate) {
			problems = append(problems, s.Name+" is a counter and not within rate or increase")
		}
		return nil
	})
	parser.Inspect(e, func(n parser.Node, _ []parser.Node) error {
		if a, ok := n.(*parser.AggregateExpr); ok {
			for _, label := range a.Grouping {
				if !slices.Contains(known, label) {
					problems = append(problems, "no metric of the query has the label "+label)
				}
			}
		}
		return nil
	})
	return problems
}

// matchers returns the problems of the matchers of a selector. own are the labels of its metric.
func matchers(f *dto.MetricFamily, s *parser.VectorSelector, own []string) (problems []string) {
	for _, m := range s.LabelMatchers {
		if slices.Contains(added, m.Name) {
			continue
		}
		if !slices.Contains(own, m.Name) {
			problems = append(problems, fmt.Sprintf("%s has no label %s", s.Name, m.Name))
			continue
		}
		positive := m.Type == labels.MatchEqual || m.Type == labels.MatchRegexp
		if positive && !slices.ContainsFunc(values(f, m.Name), m.Matches) {
			problems = append(problems, fmt.Sprintf("%s has no series with %s", s.Name, m))
		}
	}
	return problems
}

func isRate(n parser.Node) bool {
	c, ok := n.(*parser.Call)
	return ok && slices.Contains(rates, c.Func.Name)
}

// family returns the metric of a series, and whether the series is a part of a histogram.
func family(all map[string]*dto.MetricFamily, name string) (f *dto.MetricFamily, part bool) {
	if f := all[name]; f != nil && f.GetType() != dto.MetricType_HISTOGRAM {
		return f, false
	}
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if base, ok := strings.CutSuffix(name, suffix); ok && all[base].GetType() == dto.MetricType_HISTOGRAM {
			return all[base], true
		}
	}
	return nil, false
}

// names returns the labels of a metric.
func names(f *dto.MetricFamily) (all []string) {
	for _, m := range f.GetMetric() {
		for _, l := range m.GetLabel() {
			all = append(all, l.GetName())
		}
	}
	return all
}

// values returns the values of a label.
func values(f *dto.MetricFamily, name string) (all []string) {
	for _, m := range f.GetMetric() {
		for _, l := range m.GetLabel() {
			if l.GetName() == name {
				all = append(all, l.GetValue())
			}
		}
	}
	return all
}
