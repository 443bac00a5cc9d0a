package audit

import (
	"log/slog"
	"net/http"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/actor"
	"github.com/countersign/countersign/internal/pulp"
)

// Login is the action of a request whose credentials are refused.
const Login = "login"

// maxLoginName is the length limit of user names in characters, which is Pulp's.
const maxLoginName = 150

// RecordLogin writes the entry of a request whose credentials were refused with a status. wanted is the action that the
// request asked for.
func (l *Log) RecordLogin(r *http.Request, status int, wanted string) {
	name, details := loginName(r)
	e := Entry{Actor: actor.Unknown(r.RemoteAddr), Action: Login, Object: name, Result: Denied, Status: status}
	l.Record(r.Context(), e, append(details, slog.String("for", wanted))...)
}

// loginName returns the user name that the credentials of a refused request state, as the object of its entry, with
// details. A name that no account can have, because it is too long or no text, is not recorded: it may have any length
// and be anything, such as a password. Instead, details have its length.
func loginName(r *http.Request) (name string, details []slog.Attr) {
	name, _, ok := r.BasicAuth()
	switch {
	case !ok:
		return "", nil
	case !pulp.ValidText(name) || utf8.RuneCountInString(name) > maxLoginName:
		return "", []slog.Attr{slog.Int("user_name_bytes", len(name))}
	}
	return name, nil
}
