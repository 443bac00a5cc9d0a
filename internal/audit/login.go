package audit

import (
	"context"
	"log/slog"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/actor"
	"github.com/countersign/countersign/internal/pulp"
)

// Login is the action of a request whose credentials are refused.
const Login = "login"

// maxLoginName is the length limit of user names in characters, which is Pulp's.
const maxLoginName = 150

// RecordLogin writes the entry of a request whose credentials were refused with a status. remote is the request's
// RemoteAddr, name the user name of Basic credentials or "", and wanted the action that the request asked for.
//
// A name that no account can have, because it is too long or no text, is not recorded: it may have any length and be
// anything, such as a password. Instead, the entry has its length.
func (l *Log) RecordLogin(ctx context.Context, remote, name string, status int, wanted string) {
	details := []slog.Attr{slog.String("for", wanted)}
	if !pulp.ValidText(name) || utf8.RuneCountInString(name) > maxLoginName {
		details = append(details, slog.Int("user_name_bytes", len(name)))
		name = ""
	}
	e := Entry{Actor: actor.Unknown(remote), Action: Login, Object: name, Result: Denied, Status: status}
	l.Record(ctx, e, details...)
}
