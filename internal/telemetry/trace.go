package telemetry

import (
	"context"
	"log/slog"
	"net/http"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// traceparent is the W3C form in which traces are stored and passed on.
const traceparent = "traceparent"

type tracerKey struct{}

// WithTracer returns a context in which StartSpan records spans with a tracer.
func WithTracer(ctx context.Context, t trace.Tracer) context.Context {
	return context.WithValue(ctx, tracerKey{}, t)
}

// Span is a part of a trace. A nil Span has no effect.
type Span struct{ span trace.Span }

// Kind is the role of a span.
type Kind = trace.SpanKind

// The roles of spans.
const (
	KindInternal = trace.SpanKindInternal
	KindServer   = trace.SpanKindServer
	KindClient   = trace.SpanKindClient
	KindConsumer = trace.SpanKindConsumer
)

// StartSpan begins a span below the one of the context, and returns a context with it. Without a tracer in the context it
// returns the context and a nil Span.
func StartSpan(ctx context.Context, kind Kind, name string, attrs ...slog.Attr) (context.Context, *Span) {
	tracer, ok := ctx.Value(tracerKey{}).(trace.Tracer)
	if !ok {
		return ctx, nil
	}
	ctx, span := tracer.Start(ctx, name, trace.WithSpanKind(kind), trace.WithAttributes(attributes(attrs)...))
	return ctx, &Span{span}
}

// Set adds attributes.
func (s *Span) Set(attrs ...slog.Attr) {
	if s != nil {
		s.span.SetAttributes(attributes(attrs)...)
	}
}

// Rename changes the name, which was not known at the start.
func (s *Span) Rename(name string) {
	if s != nil {
		s.span.SetName(name)
	}
}

// Fail marks the span as failed.
func (s *Span) Fail(reason string) {
	if s != nil {
		s.span.SetStatus(codes.Error, reason)
	}
}

// End ends the span. err is the error of its operation; nil: none.
func (s *Span) End(err error) {
	if s == nil {
		return
	}
	if err != nil {
		s.span.SetStatus(codes.Error, err.Error())
	}
	s.span.End()
}

func attributes(attrs []slog.Attr) []attribute.KeyValue {
	all := make([]attribute.KeyValue, 0, len(attrs))
	for _, a := range attrs {
		switch a.Value.Kind() {
		case slog.KindInt64:
			all = append(all, attribute.Int64(a.Key, a.Value.Int64()))
		case slog.KindBool:
			all = append(all, attribute.Bool(a.Key, a.Value.Bool()))
		default:
			all = append(all, attribute.String(a.Key, a.Value.String()))
		}
	}
	return all
}

// Traceparent returns the span of the context as a W3C traceparent, or "" without one.
func Traceparent(ctx context.Context) string {
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier[traceparent]
}

// WithTraceparent returns a context whose spans continue the trace of a W3C traceparent. It returns the context itself if
// the text is not well-formed.
func WithTraceparent(ctx context.Context, text string) context.Context {
	if text == "" {
		return ctx
	}
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{traceparent: text})
}

// traceID returns the id of the recorded trace of a context, or "".
func traceID(ctx context.Context) string {
	c := trace.SpanContextFromContext(ctx)
	if !c.IsSampled() {
		return ""
	}
	return c.TraceID().String()
}

// TraceOptions are the settings of Trace.
type TraceOptions struct {
	Tracer trace.Tracer
	// AcceptParent continues the traces of clients: the header traceparent decides whether a request is recorded. Otherwise
	// each request begins a trace, with a link to that of the client.
	AcceptParent bool
	// Skip are paths of requests without a trace.
	Skip []string
}

// Trace returns a handler that records a span for each request. The next handler must be that of Observe, which gives the
// span its route and status.
func Trace(next http.Handler, o TraceOptions) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, path := range o.Skip {
			if r.URL.Path == path {
				next.ServeHTTP(w, r)
				return
			}
		}
		ctx := WithTracer(r.Context(), o.Tracer)
		options := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(
			attribute.String("http.request.method", knownMethod(r.Method)), attribute.String("url.path", strings.ToValidUTF8(r.URL.Path, "\ufffd")),
			attribute.String("countersign.correlation_id", Correlation(ctx)),
		)}
		if sent := WithTraceparent(ctx, r.Header.Get(traceparent)); o.AcceptParent {
			ctx = sent
		} else if c := trace.SpanContextFromContext(sent); c.IsValid() {
			options = append(options, trace.WithLinks(trace.Link{SpanContext: c}))
		}
		ctx, span := o.Tracer.Start(ctx, knownMethod(r.Method), options...)
		defer span.End()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// knownMethod returns a method of HTTP, or the name for others in OpenTelemetry's conventions.
func knownMethod(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
		http.MethodOptions, http.MethodConnect, http.MethodTrace:
		return method
	}
	return "HTTP"
}

// describeExchange gives the span of a request its route and status.
func describeExchange(ctx context.Context, e Exchange) {
	span := trace.SpanFromContext(ctx)
	if !span.IsRecording() {
		return
	}
	if e.Route != "" {
		span.SetName(knownMethod(e.Method) + " " + e.Route)
		span.SetAttributes(attribute.String("http.route", e.Route))
	}
	span.SetAttributes(attribute.Int("http.response.status_code", e.Status))
	if e.Status >= http.StatusInternalServerError {
		span.SetStatus(codes.Error, "")
	}
}
