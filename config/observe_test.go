package config_test

import (
	"strings"
	"testing"

	"github.com/countersign/countersign/config"
)

// TestTracingEndpoint verifies that the settings take precedence over the standard variables, and the paths of both.
func TestTracingEndpoint(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		environ []string
		want    string
	}{
		"none":            {nil, ""},
		"setting":         {[]string{"COUNTERSIGN_TRACING_ENDPOINT=http://c:4318", "OTEL_EXPORTER_OTLP_ENDPOINT=http://other"}, "http://c:4318/v1/traces"},
		"with a path":     {[]string{"COUNTERSIGN_TRACING_ENDPOINT=https://c/otlp/v1/traces"}, "https://c/otlp/v1/traces"},
		"variable":        {[]string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://c:4318/base/"}, "http://c:4318/base/v1/traces"},
		"traces variable": {[]string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://x", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://c/t"}, "http://c/t"},
		"disabled":        {[]string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://x", "OTEL_SDK_DISABLED=true"}, ""},
		"no exporter":     {[]string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://x", "OTEL_TRACES_EXPORTER=none"}, ""},
	} {
		loaded, err := config.Load("", tt.environ)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if got := loaded.Config.Tracing.Endpoint; got != tt.want {
			t.Errorf("%s: endpoint %q, want %q", name, got, tt.want)
		}
	}
}

func TestMonitoringSettingsAreChecked(t *testing.T) {
	t.Parallel()
	for variable, want := range map[string]string{
		"COUNTERSIGN_TRACING_ENDPOINT=collector:4318":           "tracing.endpoint",
		"COUNTERSIGN_TRACING_ENDPOINT=http://me:hidden@c":       "tracing.endpoint",
		"COUNTERSIGN_TRACING_ENDPOINT=http://c/?t=hidden":       "tracing.endpoint",
		"COUNTERSIGN_TRACING_ENDPOINT=http://me:hidden@c:x":     "tracing.endpoint",
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://me:hidden@c": "tracing.endpoint",
		"COUNTERSIGN_TRACING_SAMPLE_RATIO=2":                    "tracing.sample_ratio",
		"COUNTERSIGN_TRACING_SAMPLE_RATIO=x":                    "COUNTERSIGN_TRACING_SAMPLE_RATIO: want a number",
		"COUNTERSIGN_METRICS_LISTEN=24818":                      "metrics.listen",
		"COUNTERSIGN_METRICS_LISTEN=:http":                      "metrics.listen",
		"COUNTERSIGN_METRICS_TOKEN_FILE=/token":                 "metrics.token_file",
	} {
		if _, err := config.Load("", []string{variable}); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%s: %v, want an error about %s", variable, err, want)
		}
	}
}
