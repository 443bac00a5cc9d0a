package api

import (
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/countersign/countersign/api/internal/body"
	"github.com/countersign/countersign/api/internal/query"
	"github.com/countersign/countersign/api/internal/reply"
	"github.com/countersign/countersign/internal/actor"
	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/negotiate"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/telemetry"
)

// fail ends a request with an error; respondToErrors sends it.
func fail(c *gin.Context, err error) {
	_ = c.Error(err)
	c.Abort()
}

// respondToErrors sends the error that a later handler of the chain reported with fail.
func (a *API) respondToErrors(c *gin.Context) {
	c.Next()
	if err := c.Errors.Last(); err != nil {
		rep := a.toReply(c.Request, err.Err)
		a.conclude(c, rep.Status)
		a.write(c, rep)
	}
}

// toReply returns the response to an error, and logs errors that are the server's.
func (a *API) toReply(r *http.Request, err error) reply.Reply {
	if sqldb.IsUnavailable(err) {
		err = fault.Wrap(fault.Unavailable, err, "The database does not answer.")
	}
	rep := reply.ToError(err)
	if rep.Status >= http.StatusInternalServerError && r.Context().Err() == nil {
		a.Log.ErrorContext(r.Context(), "request failed",
			slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.Any("err", err))
	}
	return rep
}

// write sends a response without a Stream.
func (a *API) write(c *gin.Context, rep reply.Reply) {
	if err := reply.Write(c.Writer, rep); err != nil {
		a.Log.ErrorContext(c.Request.Context(), "response not encoded",
			slog.String("path", c.Request.URL.Path), slog.Any("err", err))
	}
}

// send sends a response. A streamed response that fails after its beginning is broken off, so that the client notices.
func (a *API) send(c *gin.Context, rep reply.Reply) {
	if rep.Stream == nil {
		a.write(c, rep)
		return
	}
	begun, err := reply.WriteStream(c.Writer, rep)
	switch {
	case err == nil:
	case !begun:
		a.write(c, a.toReply(c.Request, err))
	default:
		if c.Request.Context().Err() == nil {
			a.Log.ErrorContext(c.Request.Context(), "response broken off",
				slog.String("path", c.Request.URL.Path), slog.Any("err", err))
		}
		panic(http.ErrAbortHandler)
	}
}

// correlate gives a request a correlation id unless it has one.
func correlate(c *gin.Context) {
	if telemetry.Correlation(c.Request.Context()) != "" {
		return
	}
	keep := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { c.Request = r })
	telemetry.Correlate(keep).ServeHTTP(c.Writer, c.Request)
}

// recoverPanic logs a panic and responds with 500. It lets http.ErrAbortHandler pass, with which net/http breaks off a
// response.
func (a *API) recoverPanic(c *gin.Context) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
			panic(p)
		}
		c.Abort() // the handlers after the one that panicked
		a.conclude(c, http.StatusInternalServerError)
		a.Log.ErrorContext(c.Request.Context(), "panic in the API", slog.Any("panic", p), slog.String("path", c.Request.URL.Path))
		if !c.Writer.Written() {
			a.write(c, reply.Internal())
		}
	}()
	c.Next()
}

// setCommonHeaders sets the headers of every response.
func setCommonHeaders(c *gin.Context) {
	h := c.Writer.Header()
	h.Set("Vary", "Accept")
	h.Set("Access-Control-Expose-Headers", telemetry.CorrelationHeader)
	h.Set("X-Frame-Options", "DENY")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
}

// limitBody limits the request's body to body.MaxBytes bytes; reading more fails with *http.MaxBytesError.
func limitBody(c *gin.Context) {
	c.Request.Body = http.MaxBytesReader(nil, c.Request.Body, body.MaxBytes)
}

// accept refuses a request that accepts neither JSON nor HTML, nor a further media type of the route. Browsers, which
// ask for HTML, get JSON too.
func (a *API) accept(c *gin.Context) {
	accept, other := c.Request.Header.Values("Accept"), a.media[c.FullPath()]
	if other != "" && negotiate.Accepts(accept, string(other)) {
		return
	}
	if !negotiate.Accepts(accept, "application/json") && !negotiate.Accepts(accept, "text/html") {
		fail(c, &reply.Error{Status: http.StatusNotAcceptable, Body: reply.Detail("Could not satisfy the request Accept header.")})
	}
}

// checkOrigin refuses requests that a browser sends for a page of another origin.
func (a *API) checkOrigin(c *gin.Context) {
	if !a.origins.Allows(c.Request) {
		fail(c, &reply.Error{Status: http.StatusForbidden, Body: reply.Detail(auth.OtherOrigin)})
	}
}

// parseQuery parses the query string and makes the request that handlers get.
func parseQuery(c *gin.Context) {
	values, err := url.ParseQuery(c.Request.URL.RawQuery)
	if err != nil {
		fail(c, reply.BadQuery("The query string is malformed."))
		return
	}
	for name, texts := range values {
		for i, text := range texts {
			if strings.ContainsRune(text, 0) { // PostgreSQL stores no text with this character
				fail(c, fault.Field(name, body.NullCharacters))
				return
			}
			texts[i] = strings.ToValidUTF8(text, "\ufffd")
		}
	}
	req := &request{Request: c.Request, query: values, param: c.Param}
	if req.selected, err = query.SelectionOf(values); err != nil {
		fail(c, err)
		return
	}
	c.Set(requestKey, req)
}

// requestKey is the key under which parseQuery stores the *request.
const requestKey = "request"

func requestOf(c *gin.Context) *request { return c.MustGet(requestKey).(*request) }

// authenticate verifies the request's credentials, unless the path is open.
func (a *API) authenticate(c *gin.Context) {
	req := requestOf(c)
	req.log = a.Log
	if a.open[c.Request.URL.Path] {
		return
	}
	var err error
	req.caller, err = a.Auth.Basic(c.Request)
	if req.caller != nil {
		req.user = &req.caller.Account
	}
	if err == nil && req.caller == nil {
		err = fault.New(fault.Unauthenticated, "Authentication credentials were not provided.")
	}
	if err != nil {
		fail(c, err)
		return
	}
	c.Request = c.Request.WithContext(actor.With(c.Request.Context(), req.caller.Actor(c.Request.RemoteAddr)))
	req.Request = c.Request
}
