// Package tracing exports the spans of internal/telemetry to an OpenTelemetry receiver with OTLP over HTTP.
//
// It sets nothing global, so spans of libraries do not appear among those of the program. The standard variables OTEL_*
// configure details: headers, certificates, timeouts, the sampler, and attributes of the process.
package tracing

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// samplerVariable is the variable that replaces Options.SampleRatio.
const samplerVariable = "OTEL_TRACES_SAMPLER"

// reportInterval is the least time between two log records about failed exports.
const reportInterval = time.Minute

// Options describe the receiver and the process. All are required but SampleRatio.
type Options struct {
	// Endpoint is the URL to which spans are sent: http(s)://host:port/v1/traces.
	Endpoint string
	// SampleRatio is the share of traces that are recorded, from 0 to 1. A trace that is continued keeps its decision.
	SampleRatio float64
	Version     string
	Process     string // name of the process
	Log         *slog.Logger
}

// Tracing records and exports spans.
type Tracing struct{ provider *sdk.TracerProvider }

// New returns a Tracing. It does not connect to the receiver. The error is that of a variable OTEL_* or of the endpoint.
func New(ctx context.Context, o Options) (*Tracing, error) {
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(o.Endpoint))
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	about, err := resource.New(ctx,
		resource.WithTelemetrySDK(),
		resource.WithAttributes(
			attribute.String("service.name", "countersign"), attribute.String("service.version", o.Version),
			attribute.String("service.instance.id", o.Process),
		),
		resource.WithFromEnv(), // the last one counts
	)
	if err != nil {
		return nil, fmt.Errorf("tracing: attributes of the process: %w", err)
	}
	options := []sdk.TracerProviderOption{sdk.WithBatcher(&reporting{SpanExporter: exporter, log: o.Log}), sdk.WithResource(about)}
	if os.Getenv(samplerVariable) == "" {
		options = append(options, sdk.WithSampler(sdk.ParentBased(sdk.TraceIDRatioBased(o.SampleRatio))))
	}
	return &Tracing{sdk.NewTracerProvider(options...)}, nil
}

// Tracer returns the tracer of the program.
func (t *Tracing) Tracer() trace.Tracer {
	return t.provider.Tracer("github.com/countersign/countersign")
}

// Close exports the remaining spans. They are lost when ctx ends.
func (t *Tracing) Close(ctx context.Context) error { return t.provider.Shutdown(ctx) }

// reporting logs failed exports. The library would write them to standard error.
type reporting struct {
	sdk.SpanExporter
	log *slog.Logger

	mu       sync.Mutex
	reported time.Time
}

// ExportSpans implements sdk.SpanExporter.
func (r *reporting) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	err := r.SpanExporter.ExportSpans(ctx, spans)
	if err == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.reported) >= reportInterval {
		r.reported = time.Now()
		r.log.WarnContext(ctx, "traces are lost: the receiver at tracing.endpoint does not accept them", slog.Int("spans", len(spans)), slog.Any("err", err))
	}
	return nil
}
