package telemetry_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/telemetry"
)

// TestCorrelate verifies that a well-formed id of the client is used, that others are replaced, and that context and
// response agree.
func TestCorrelate(t *testing.T) {
	t.Parallel()
	generated := regexp.MustCompile(`^[0-9a-f]{32}$`)
	for name, tt := range map[string]struct {
		header string
		kept   bool
	}{
		"none":             {},
		"well-formed":      {header: "build-17.a_B", kept: true},
		"longest":          {header: strings.Repeat("a", 128), kept: true},
		"too long":         {header: strings.Repeat("a", 129)},
		"line break":       {header: "a\nb"},
		"other characters": {header: "a b"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inContext := ""
			handler := telemetry.Correlate(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				inContext = telemetry.Correlation(r.Context())
			}))
			request := httptest.NewRequest(http.MethodGet, "/", nil)
			if tt.header != "" {
				request.Header.Set(telemetry.CorrelationHeader, tt.header)
			}
			response := httptest.NewRecorder()
			handler.ServeHTTP(response, request)
			got := response.Header().Get(telemetry.CorrelationHeader)
			if got != inContext {
				t.Errorf("response has the id %q, context %q", got, inContext)
			}
			if tt.kept && got != tt.header || !tt.kept && !generated.MatchString(got) {
				t.Errorf("id = %q for the header %q", got, tt.header)
			}
		})
	}
}

// TestLogHandler verifies that records have the correlation id of their context, also in loggers with attributes and
// groups.
func TestLogHandler(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := slog.New(telemetry.LogHandler{Handler: slog.NewJSONHandler(&out, nil)})
	ctx := telemetry.WithCorrelation(t.Context(), "id-1")
	log.With(slog.String("a", "b")).InfoContext(ctx, "attributes")
	log.WithGroup("g").InfoContext(ctx, "group")
	log.InfoContext(t.Context(), "no id")
	records := []map[string]any{}
	for line := range strings.Lines(out.String()) {
		var record map[string]any
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			t.Fatal(err)
		}
		records = append(records, record)
	}
	if len(records) != 3 {
		t.Fatalf("%d records, want 3", len(records))
	}
	if got := records[0]["correlation_id"]; got != "id-1" {
		t.Errorf("record of a logger with attributes has the id %v", got)
	}
	if group, ok := records[1]["g"].(map[string]any); !ok || group["correlation_id"] != "id-1" {
		t.Errorf("record of a logger with a group: %v", records[1])
	}
	if id, found := records[2]["correlation_id"]; found {
		t.Errorf("record without a correlation id has %v", id)
	}
}
