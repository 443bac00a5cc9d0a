package proxy

import (
	"log/slog"
	"net/http"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/actor"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/pulp"
)

// auditActions are the actions of requests in the audit log, by the kind of the route and the method. Other requests
// read.
var auditActions = map[routeKind]map[string]string{
	routeUploads: {http.MethodPost: "push blob"},
	routeUpload: {
		http.MethodGet: "push blob", http.MethodPatch: "push blob", http.MethodPut: "push blob", http.MethodDelete: "cancel upload",
	},
	routeBlob:       {http.MethodDelete: "delete blob"},
	routeManifest:   {http.MethodPut: "push manifest", http.MethodDelete: "delete manifest"},
	routeSignatures: {http.MethodPut: "put signature"},
	routeCatalog:    {http.MethodGet: "list catalog"},
	routeToken:      {http.MethodGet: "get token", http.MethodPost: "get token"},
}

// auditAction returns the action of the request in the audit log.
func (c *call) auditAction() string {
	if action := auditActions[c.kind][c.r.Method]; action != "" {
		return action
	}
	return "pull"
}

// identify puts the caller into the context of the request as the actor.
func (c *call) identify() {
	c.r = c.r.WithContext(actor.With(c.r.Context(), c.caller.Actor(c.r.RemoteAddr)))
}

// audit writes the audit entry of a change: the actor, the action, the repository and the result.
func (c *call) audit(action string, err error, facts ...slog.Attr) {
	entry := audit.Entry{Action: action, Object: c.name, Result: audit.Done}
	if err != nil {
		c.failureAudited = true
		f := toFailure(err)
		entry.Result, entry.Status = audit.Failed, f.status
		if refuses(f.status) {
			entry.Result = audit.Denied
		}
		facts = append(facts, slog.String("error", f.code))
	}
	c.Audit.Record(c.r.Context(), entry, facts...)
}

// auditFailure writes the audit entry of a request that failed, unless it has one: of a refusal, or of a change that
// was not made. A request for a token without credentials, or with a missing one, is no refusal: it is how clients begin.
func (c *call) auditFailure(err error) {
	reads := auditActions[c.kind][c.r.Method] == "" || c.r.Method == http.MethodGet || c.kind == routeToken
	f := toFailure(err)
	switch {
	case c.failureAudited, f.status == http.StatusMethodNotAllowed:
	case f.status == http.StatusForbidden:
		c.identify() // it may be refused before that
		c.audit(c.auditAction(), err)
	case c.r.Header.Get("Authorization") == "" && !c.caller.authenticated: // authenticated by certificate
	case !c.caller.authenticated && (refuses(f.status) || f.status == http.StatusTooManyRequests):
		name, _, _ := c.r.BasicAuth()
		c.Audit.RecordLogin(c.r.Context(), c.r.RemoteAddr, name, f.status, c.auditAction())
	case refuses(f.status), !reads && !c.preparesUpload():
		c.audit(c.auditAction(), err, c.reference()...)
	}
}

// loginFailed writes the audit entry of a request whose credentials in a form were refused, and returns its failure.
func (c *call) loginFailed(name string, err error) error {
	if status := toFailure(err).status; status < http.StatusInternalServerError {
		c.failureAudited = true
		c.Audit.RecordLogin(c.r.Context(), c.r.RemoteAddr, name, status, c.auditAction())
	}
	return err
}

// refuses reports whether a status refuses a request for lack of rights.
func refuses(status int) bool {
	return status == http.StatusUnauthorized || status == http.StatusForbidden
}

// preparesUpload reports whether the request starts or continues an upload. Only its end changes the repository.
func (c *call) preparesUpload() bool {
	return c.kind == routeUploads && !c.r.URL.Query().Has("digest") || c.kind == routeUpload && c.r.Method == http.MethodPatch
}

// reference returns the tag or digest of the request as a detail of its entry.
func (c *call) reference() []slog.Attr {
	if c.kind == routeManifest && pulp.ValidTag(c.ref) || validDigest(digest.Digest(c.ref)) {
		return []slog.Attr{slog.String("reference", c.ref)}
	}
	return nil
}
