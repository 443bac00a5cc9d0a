package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"syscall"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/storage"
)

// failure is an error response of the registry. See compatibility.md#registry-errors.
type failure struct {
	status   int
	code     string
	message  string
	detail   any
	header   http.Header
	restBody any // if set, the whole body, in the format of the REST API
}

// Error returns the code and the message.
func (f *failure) Error() string { return f.code + ": " + f.message }

func newError(status int, code, message string, detail any) *failure {
	return &failure{status: status, code: code, message: message, detail: detail}
}

// withHeader returns a copy with an additional response header.
func (f *failure) withHeader(key, value string) *failure {
	c := *f
	c.header = f.header.Clone()
	if c.header == nil {
		c.header = http.Header{}
	}
	c.header.Set(key, value)
	return &c
}

func (c *call) methodNotAllowed(allowed map[string]handler) error {
	names := slices.Collect(maps.Keys(allowed))
	if allowed[http.MethodGet] != nil {
		names = append(names, http.MethodHead)
	}
	slices.Sort(names)
	f := newError(http.StatusMethodNotAllowed, "UNSUPPORTED", `Method "`+c.r.Method+`" not allowed.`, nil)
	if c.kind == routeToken {
		f = restError(f.status, f.message)
	}
	return f.withHeader("Allow", strings.Join(names, ", "))
}

// otherOrigin returns the failure for a cross-origin request of a browser.
func (c *call) otherOrigin() error {
	if c.kind == routeToken {
		return restError(http.StatusForbidden, auth.OtherOrigin)
	}
	return newError(http.StatusForbidden, "DENIED", auth.OtherOrigin, nil)
}

func (c *call) nameUnknown() error {
	return newError(http.StatusNotFound, "NAME_UNKNOWN", "Repository not found.", map[string]string{"name": c.name})
}

func (c *call) manifestUnknown() error {
	return newError(
		http.StatusNotFound,
		"MANIFEST_UNKNOWN",
		"Manifest not found.",
		map[string]string{"reference": c.ref},
	)
}

// blobUnknown returns the failure for an unknown blob. Its message is Pulp's.
func blobUnknown(d string) error {
	return newError(http.StatusNotFound, "BLOB_UNKNOWN", "Blob not found, hello!?", map[string]string{"digest": d})
}

func digestInvalid(d string) error {
	return newError(
		http.StatusBadRequest,
		"DIGEST_INVALID",
		"The digest is not well-formed or not that of the content.",
		map[string]string{"digest": d},
	)
}

// kinds maps the kind of an error to the response, for errors without a failure of their own.
var responses = map[fault.Kind]struct {
	status int
	code   string
}{
	fault.Internal:        {http.StatusInternalServerError, "UNKNOWN"},
	fault.Invalid:         {http.StatusBadRequest, "INVALID_REQUEST"},
	fault.NotFound:        {http.StatusNotFound, "NAME_UNKNOWN"},
	fault.Conflict:        {http.StatusConflict, "DENIED"},
	fault.Denied:          {http.StatusUnauthorized, "UNAUTHORIZED"},
	fault.Unauthenticated: {http.StatusUnauthorized, "UNAUTHORIZED"},
	fault.TooLarge:        {http.StatusRequestEntityTooLarge, "SIZE_INVALID"},
	fault.Unavailable:     {http.StatusServiceUnavailable, "UNAVAILABLE"},
	fault.TooMany:         {http.StatusTooManyRequests, "TOOMANYREQUESTS"},
}

// toFailure returns the response for an error. It hides the text of internal errors.
func toFailure(err error) *failure {
	if f, ok := errors.AsType[*failure](err); ok {
		return f
	}
	if f := contentFailure(err); f != nil {
		return f
	}
	if errors.Is(err, storage.ErrUnsupported) {
		return newError(http.StatusBadRequest, "UNSUPPORTED", "The upstream registry does not store this.", nil)
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		err = fault.Wrap(fault.Unavailable, err, "The storage is full.")
	}
	if sqldb.IsUnavailable(err) {
		err = fault.Wrap(fault.Unavailable, err, "The database does not answer.")
	}
	kind := fault.KindOf(err)
	as := responses[kind]
	f := newError(as.status, as.code, "Internal error.", nil)
	if e, ok := errors.AsType[*fault.Error](err); ok && kind != fault.Internal {
		f.message = e.Msg
	}
	if kind == fault.Unavailable || kind == fault.TooMany {
		f = f.withHeader("Retry-After", fault.RetrySeconds(err))
	}
	return f
}

// contentFailure returns the response for the errors of a change of content, or nil for other errors.
func contentFailure(err error) *failure {
	const code = "MANIFEST_BLOB_UNKNOWN"
	if missing, ok := errors.AsType[*content.MissingBlobs](err); ok {
		return newError(http.StatusBadRequest, code, "blob unknown to registry", digests(missing.Digests))
	}
	if missing, ok := errors.AsType[*content.MissingChildren](err); ok {
		return newError(http.StatusBadRequest, code, "manifest unknown to registry", digests(missing.Digests))
	}
	if moved, ok := errors.AsType[*content.TagMoved](err); ok {
		message := "The tag does not meet the precondition of the request."
		detail := map[string]string{"tag": moved.Name, "digest": string(moved.Current)}
		return newError(http.StatusPreconditionFailed, "PRECONDITION_FAILED", message, detail)
	}
	return nil
}

func digests(d []digest.Digest) any {
	return map[string]any{"digest": d[0], "digests": d}
}

// writeError sends the response for an error. If the client is gone it aborts the connection.
func (c *call) writeError(err error) {
	ctx := c.r.Context()
	if ctx.Err() != nil {
		c.Log.DebugContext(ctx, "client disconnected", slog.Any("err", err))
		panic(http.ErrAbortHandler)
	}
	f := toFailure(err)
	if f.status >= http.StatusInternalServerError && !errors.Is(err, context.Canceled) {
		c.Log.ErrorContext(
			ctx,
			"request failed",
			slog.String("method", c.r.Method),
			slog.String("path", c.r.URL.Path),
			slog.Any("err", err),
		)
	}
	h := c.w.Header()
	for key, values := range f.header {
		h[key] = values
	}
	body := f.restBody
	if body == nil {
		detail := f.detail
		if detail == nil {
			detail = struct{}{}
		}
		type oneError struct {
			Code    string `json:"code"`
			Message string `json:"message"`
			Detail  any    `json:"detail"`
		}
		body = map[string]any{"errors": []oneError{{f.code, f.message, detail}}}
	}
	if err := c.writeJSON(f.status, body); err != nil {
		c.Log.ErrorContext(ctx, "cannot send the error response", slog.Any("err", err))
	}
}

// writeJSON sends a response with a JSON body. It returns an error only before it writes.
func (c *call) writeJSON(status int, body any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	c.writeBody(status, "application/json", b)
	return nil
}
