package api

import (
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/fault"
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
