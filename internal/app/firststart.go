package app

import (
	"context"
	"crypto/rand"
	"log/slog"
	"path/filepath"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/signers"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/signing/openpgp"
)

// AdminName is the name of the user that the first start creates, with all permissions.
const AdminName = "admin"

// setAdminPassword sets the password of the user admin, and creates the user if it does not exist.
func setAdminPassword(ctx context.Context, s *store.Store, entries *audit.Log, password string) error {
	hash, err := auth.HashPassword(password)
	if err != nil {
		return err
	}
	if _, err = s.Accounts.PutUser(ctx, AdminName, hash, true, true); err != nil {
		return err
	}
	entries.Record(ctx, audit.Entry{Action: "reset admin password", Object: AdminName, Result: audit.Done})
	return nil
}

// ensureAdmin creates the user admin if it does not exist, and sets the configured password. It returns the password
// that it generated, which must be shown to the operator, or "" if it generated none.
func (a *App) ensureAdmin(
	ctx context.Context, s *store.Store, users *auth.Auth, entries *audit.Log,
) (generated string, err error) {
	configured := a.config.AdminPassword.Reveal()
	_, err = s.Accounts.UserByName(ctx, AdminName)
	switch {
	case configured != "":
		if _, err := users.Login(ctx, AdminName, configured); err == nil {
			return "", nil // the password is set; a new hash would end the tokens of admin
		}
		return "", setAdminPassword(ctx, s, entries, configured)
	case fault.Is(err, fault.NotFound):
		generated = rand.Text()
		return generated, setAdminPassword(ctx, s, entries, generated)
	}
	return "", err
}

// ensureService creates the default signing service, with a key of its own, at the first start on SQLite: if there is
// neither a signing service nor the user admin, which is created afterwards. A service that was removed is not
// created again. A start that is killed in between leaves a key file, which the next start uses.
func (a *App) ensureService(ctx context.Context, s *store.Store, keys *signers.Signers, entries *audit.Log) error {
	c := a.config
	name := c.Signing.DefaultService
	if name == "" || sqldb.IsPostgres(c.DatabaseURL) {
		return nil
	}
	if _, err := s.Accounts.UserByName(ctx, AdminName); !fault.Is(err, fault.NotFound) {
		return err
	}
	if services, err := s.Signatures.SigningServices(ctx); err != nil || len(services) > 0 {
		return err
	}
	file, err := openpgp.Ensure(filepath.Join(c.Data, "keys"), "Countersign", "countersign@"+c.Public().Hostname())
	if err != nil {
		return err
	}
	if file, err = filepath.Rel(c.Data, file); err != nil {
		return err
	}
	service, err := keys.OpenPGPService(pulp.ServiceConfig{KeyFile: file})
	if err != nil {
		return err
	}
	service.Name, service.Class = name, pulp.ManifestSigningService
	if err := keys.Validate(ctx, service, entries); err != nil {
		return err
	}
	if _, err := s.Signatures.AddSigningService(ctx, service); err != nil {
		return err
	}
	RecordService(ctx, entries, "add signing service", name, slog.String("key", service.Fingerprint))
	a.log.InfoContext(ctx, "created a signing service with a new key", slog.String("service", name), slog.String("key", service.Fingerprint))
	return nil
}

// RecordService writes the audit entry of a change of a signing service.
func RecordService(ctx context.Context, entries *audit.Log, action, name string, details ...slog.Attr) {
	entries.Record(ctx, audit.Entry{Action: action, Object: name, Result: audit.Done}, details...)
}
