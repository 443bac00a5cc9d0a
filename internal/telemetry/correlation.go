// Package telemetry carries what makes a request findable afterwards: its correlation id, and the log handler that adds it to
// every line. It keeps nothing global.
package telemetry

import (
	"context"
	"log/slog"
	"net/http"
	"regexp"
	"strings"

	"github.com/google/uuid"
)

// CorrelationHeader is the header in which a request's correlation id comes and goes (contract 1.1).
const CorrelationHeader = "Correlation-ID"

// correlationForm is what a client may choose as its id; anything else is replaced by one of ours.
var correlationForm = regexp.MustCompile(`^[A-Za-z0-9._-]{1,128}$`)

type correlationKey struct{}

// WithCorrelation returns a context that carries a correlation id.
func WithCorrelation(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, correlationKey{}, id)
}

// Correlation returns the context's correlation id; empty when it carries none.
func Correlation(ctx context.Context) string {
	id, _ := ctx.Value(correlationKey{}).(string)
	return id
}

// NewCorrelation returns a fresh correlation id: 32 hex digits.
func NewCorrelation() string { return strings.ReplaceAll(uuid.NewString(), "-", "") }

// Correlate gives every request a correlation id, the client's own where it is well-formed, and answers with it.
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

// LogHandler adds the context's correlation id to every record.
type LogHandler struct{ slog.Handler }

// Handle implements slog.Handler.
func (h LogHandler) Handle(ctx context.Context, r slog.Record) error {
	if id := Correlation(ctx); id != "" {
		r.AddAttrs(slog.String("correlation_id", id))
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h LogHandler) WithAttrs(a []slog.Attr) slog.Handler { return LogHandler{h.Handler.WithAttrs(a)} }

// WithGroup implements slog.Handler.
func (h LogHandler) WithGroup(name string) slog.Handler { return LogHandler{h.Handler.WithGroup(name)} }
