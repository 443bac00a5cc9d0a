package api

import (
	"errors"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/negotiate"
	"github.com/countersign/countersign/internal/telemetry"
)

// fail ends a request with an error; respondToErrors sends it.
func fail(c *gin.Context, err error) {
	_ = c.Error(err)
	c.Abort()
}

// respondToErrors sends the error that a later handler reported.
func (a *API) respondToErrors(c *gin.Context) {
	c.Next()
	if err := c.Errors.Last(); err != nil {
		a.send(c, a.failure(c.Request, err.Err))
	}
}

// correlate gives a request a correlation id unless it has one.
func correlate(c *gin.Context) {
	if telemetry.Correlation(c.Request.Context()) != "" {
		return
	}
	telemetry.Correlate(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { c.Request = r })).ServeHTTP(c.Writer, c.Request)
}

// recoverPanic logs a panic and responds with 500. It lets http.ErrAbortHandler pass, with which net/http breaks off a response.
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
		a.Log.ErrorContext(c.Request.Context(), "panic in the API", slog.Any("panic", p), slog.String("path", c.Request.URL.Path))
		if !c.Writer.Written() {
			a.write(c.Writer, answer{status: http.StatusInternalServerError, body: detail("Internal server error.")})
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

// limitBody bounds the request's body to maxBody bytes; reading more fails with *http.MaxBytesError.
func limitBody(c *gin.Context) {
	c.Request.Body = http.MaxBytesReader(nil, c.Request.Body, maxBody)
}

// acceptJSON refuses a request that accepts neither JSON nor HTML. Browsers, which ask for HTML, get JSON too.
func acceptJSON(c *gin.Context) {
	accept := c.Request.Header.Values("Accept")
	if !negotiate.Accepts(accept, "application/json") && !negotiate.Accepts(accept, "text/html") {
		fail(c, &httpError{http.StatusNotAcceptable, detail("Could not satisfy the request Accept header.")})
	}
}

// checkOrigin refuses requests that a browser sends for a page of another origin.
func (a *API) checkOrigin(c *gin.Context) {
	if !a.origins.Allows(c.Request) {
		fail(c, &httpError{http.StatusForbidden, detail(auth.OtherOrigin)})
	}
}

// parseQuery parses the query string and makes the request that handlers get.
func parseQuery(c *gin.Context) {
	query, err := url.ParseQuery(c.Request.URL.RawQuery)
	if err != nil {
		fail(c, &httpError{http.StatusBadRequest, map[string][]string{"errors": {"The query string is malformed."}}})
		return
	}
	for name, values := range query {
		for i, v := range values {
			if strings.ContainsRune(v, 0) { // PostgreSQL stores no text with this character
				fail(c, invalid(name, "%s", nullCharacters))
				return
			}
			values[i] = strings.ToValidUTF8(v, "\ufffd")
		}
	}
	req := &request{Request: c.Request, query: query, param: c.Param}
	if req.selected, err = selectionOf(query); err != nil {
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
	req.user, err = a.Auth.Basic(c.Request)
	if err == nil && req.user == nil {
		err = fault.New(fault.Unauthenticated, "Authentication credentials were not provided.")
	}
	if err != nil {
		fail(c, err)
	}
}

// mediaType returns the media type of a Content-Type header, in lower case and without parameters.
func mediaType(header string) string {
	if name, _, err := mime.ParseMediaType(header); err == nil {
		return name
	}
	name, _, _ := strings.Cut(header, ";")
	return strings.ToLower(strings.TrimSpace(name))
}
