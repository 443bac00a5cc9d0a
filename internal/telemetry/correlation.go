// Package telemetry gives each request a correlation id and adds the id to the request's log records. It has no
// global state.
package telemetry

import (
	"context"
	"log/slog"
	"net/http"
	"regexp"
	"strings"

	"github.com/google/uuid"
)

// CorrelationHeader is the header of requests and responses that contains the correlation id.
const CorrelationHeader = "Correlation-ID"

// correlationForm is the form of ids that a client may choose.
var correlationForm = regexp.MustCompile(`^[A-Za-z0-9._-]{1,128}$`)

type correlationKey struct{}

// WithCorrelation returns a context that carries a correlation id.
func WithCorrelation(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, correlationKey{}, id)
}

// Correlation returns the correlation id of a context, or "" if it has none.
func Correlation(ctx context.Context) string {
	id, _ := ctx.Value(correlationKey{}).(string)
	return id
}

// NewCorrelation returns a new correlation id of 32 hexadecimal digits.
func NewCorrelation() string { return strings.ReplaceAll(uuid.NewString(), "-", "") }

// Correlate returns a handler that sets the correlation id in the context of each request and in the response. The id
// is that of the request's header if it is well-formed, otherwise a new one.
func Correlate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get(CorrelationHeader)
		if !correlationForm.MatchString(id) {
			id = NewCorrelation()
		}
		w.Header().Set(CorrelationHeader, id)
		next.ServeHTTP(w, r.WithContext(WithCorrelation(r.Context(), id)))
	})
}

// LogHandler adds the correlation id of the context to each record, and the id of its trace if that is recorded.
type LogHandler struct{ slog.Handler }

// Handle implements slog.Handler.
func (h LogHandler) Handle(ctx context.Context, r slog.Record) error {
	if id := Correlation(ctx); id != "" {
		r.AddAttrs(slog.String("correlation_id", id))
	}
	if id := traceID(ctx); id != "" {
		r.AddAttrs(slog.String("trace_id", id))
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h LogHandler) WithAttrs(a []slog.Attr) slog.Handler { return LogHandler{h.Handler.WithAttrs(a)} }

// WithGroup implements slog.Handler.
func (h LogHandler) WithGroup(name string) slog.Handler { return LogHandler{h.Handler.WithGroup(name)} }
