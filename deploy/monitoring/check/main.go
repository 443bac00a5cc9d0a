// Command check compares dashboards and alert rules with an exposition of the metrics that they query. It is a module of its
// own, so that the program does not depend on the parser of Prometheus.
//
// Usage: check METRICS FILE...
//
// METRICS is a file with the response of /metrics; the others are Grafana dashboards (.json) and rules (.yaml). Each query must
// parse; its metrics must exist; labels that it matches or groups by must be labels of these metrics, with values that exist;
// and counters must be within rate or a similar function. Rules must have a name, a severity, a summary and a link.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: check METRICS FILE...")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run checks the queries of files. Its error has one line for each problem.
func run(metrics string, files []string) error {
	families, err := read(metrics)
	if err != nil {
		return err
	}
	var problems []error
	used := map[string]bool{}
	for _, name := range files {
		queries, err := queriesOf(name)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if len(queries) == 0 {
			problems = append(problems, fmt.Errorf("%s: no queries", name))
		}
		for _, q := range queries {
			for _, problem := range check(families, q.expr, used) {
				problems = append(problems, fmt.Errorf("%s: %s: %s\n    %s", filepath.Base(name), q.where, problem, q.expr))
			}
		}
		fmt.Printf("%s: %d queries\n", filepath.Base(name), len(queries))
	}
	return errors.Join(problems...)
}

// read parses an exposition.
func read(name string) (map[string]*dto.MetricFamily, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	return parser.TextToMetricFamilies(f)
}

// query is a query and its place in a file.
type query struct{ where, expr string }

// queriesOf returns the queries of a dashboard or of a file of rules.
func queriesOf(name string) ([]query, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	if strings.HasSuffix(name, ".json") {
		var dashboard any
		if err := json.Unmarshal(text, &dashboard); err != nil {
			return nil, err
		}
		return panels("", dashboard), nil
	}
	return rules(text)
}

// seriesOfVariable matches the query of a variable of a dashboard.
var seriesOfVariable = regexp.MustCompile(`^label_values\(([^,]+), *([a-z_]+)\)$`)

// panels returns the queries of a part of a dashboard, at any depth.
func panels(where string, part any) (all []query) {
	switch part := part.(type) {
	case map[string]any:
		if title, ok := part["title"].(string); ok && title != "" {
			where = strings.TrimPrefix(where+" / "+title, " / ")
		}
		if expr, ok := part["expr"].(string); ok {
			all = append(all, query{where, expr})
		}
		if text, ok := part["query"].(string); ok {
			if m := seriesOfVariable.FindStringSubmatch(text); m != nil {
				all = append(all, query{where + " (variable)", "count by (" + m[2] + ") (" + m[1] + ")"})
			}
		}
		for _, value := range part {
			all = append(all, panels(where, value)...)
		}
	case []any:
		for _, value := range part {
			all = append(all, panels(where, value)...)
		}
	}
	return all
}

// rules returns the queries of a file of rules, after checking its form.
func rules(text []byte) ([]query, error) {
	var file struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr         string
				For                 model.Duration
				Labels, Annotations map[string]string
			}
		}
	}
	decoder := yaml.NewDecoder(strings.NewReader(string(text)))
	decoder.KnownFields(true)
	if err := decoder.Decode(&file); err != nil {
		return nil, err
	}
	var all []query
	seen := map[string]bool{}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			switch {
			case !regexp.MustCompile(`^[A-Z][A-Za-z]+$`).MatchString(r.Alert) || seen[r.Alert]:
				return nil, fmt.Errorf("the alert %q has no name, or one that another has", r.Alert)
			case r.Labels["severity"] != "critical" && r.Labels["severity"] != "warning":
				return nil, fmt.Errorf("%s: the severity is %q", r.Alert, r.Labels["severity"])
			case r.Annotations["summary"] == "" || !strings.Contains(r.Annotations["runbook_url"], "#"+strings.ToLower(r.Alert)):
				return nil, fmt.Errorf("%s: want a summary, and a runbook_url that ends in #%s", r.Alert, strings.ToLower(r.Alert))
			}
			seen[r.Alert] = true
			all = append(all, query{r.Alert, r.Expr})
		}
	}
	return all, nil
}
