package api

import (
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/negotiate"
	"github.com/countersign/countersign/internal/pulp"
)

// request is one call by a known user; on open routes the user may be nobody.
type request struct {
	*http.Request
	user     *pulp.User // nil on open routes alone
	query    url.Values
	selected selection           // the fields that the query selects
	param    func(string) string // of the path
	log      *slog.Logger

	verifying time.Duration // that it has spent on verifying signatures
}

// identify finds out who calls.
func (a *API) identify(r route, c *gin.Context) (*request, error) {
	query, err := url.ParseQuery(c.Request.URL.RawQuery)
	if err != nil {
		return nil, &httpError{http.StatusBadRequest, map[string][]string{"errors": {"The query string is malformed."}}}
	}
	for name, values := range query {
		for i, v := range values {
			if strings.ContainsRune(v, 0) { // no database keeps such texts, and not every one may be asked for them
				return nil, invalid(name, "%s", nullCharacters)
			}
			values[i] = strings.ToValidUTF8(v, "\ufffd")
		}
	}
	req := &request{Request: c.Request, query: query, param: c.Param, log: a.Log}
	if req.selected, err = selectionOf(query); err != nil {
		return nil, err
	}
	if r.open {
		return req, nil
	}
	req.user, err = a.Auth.Basic(c.Request)
	if err == nil && req.user == nil {
		err = fault.New(fault.Unauthenticated, "Authentication credentials were not provided.")
	}
	return req, err
}

// isStaff says whether the caller sees and does everything.
func (r *request) isStaff() bool {
	return auth.Allow(r.user, auth.Administer, auth.Object{Exists: true})
}

// staff refuses everybody but administrators.
func (r *request) staff() error {
	if !r.isStaff() {
		return errDenied
	}
	return nil
}

var errDenied = fault.New(fault.Denied, "You do not have permission to perform this action.")

// audit writes the line that every change leaves: who did what to what, and the task that does it.
func (r *request) audit(action, object string, attrs ...slog.Attr) {
	attrs = append([]slog.Attr{slog.String("who", r.user.Username), slog.String("action", action), slog.String("object", object), slog.String("result", "done")}, attrs...)
	r.log.LogAttrs(r.Context(), slog.LevelInfo, "audit", attrs...)
}

// acceptsJSON refuses a request that accepts neither JSON nor HTML. Browsers, which ask for HTML, get JSON too.
func acceptsJSON(r *http.Request) error {
	accept := r.Header.Values("Accept")
	if negotiate.Accepts(accept, "application/json") || negotiate.Accepts(accept, "text/html") {
		return nil
	}
	return &httpError{http.StatusNotAcceptable, detail("Could not satisfy the request Accept header.")}
}

// mediaType returns the media type of a Content-Type header, in lower case and without parameters.
func mediaType(header string) string {
	if name, _, err := mime.ParseMediaType(header); err == nil {
		return name
	}
	name, _, _ := strings.Cut(header, ";")
	return strings.ToLower(strings.TrimSpace(name))
}
