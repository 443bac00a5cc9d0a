package doctor

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/countersign/countersign/config"
	"github.com/countersign/countersign/internal/apiclient"
	"github.com/countersign/countersign/internal/app"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/safefile"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/signing"
)

// Installation describes the installation on this machine. All fields except NoSign are required.
type Installation struct {
	App    *app.App
	Config config.Config
	// Warnings are those of the configuration.
	Warnings []config.Warning
	// NoSign omits the test signatures.
	NoSign bool
}

// Installation checks the installation on this machine: the configuration, the files, the database, the keys, and then all that
// Server and State check. It does not change the schema of the database.
func (r *Report) Installation(ctx context.Context, i Installation) {
	r.settings(i)
	r.files(i.Config)
	if r.database(ctx, i) {
		err := i.App.WithExistingStore(ctx, func(s *store.Store) error {
			r.clocks(ctx, i, s)
			return i.App.WithAudit(ctx, s, func(ctx context.Context, entries *audit.Log) error {
				return r.keys(ctx, i, s, entries)
			})
		})
		if err != nil {
			r.fail("database", "correct the error and run doctor again", "%s", oneLine(err))
		}
		err = i.App.WithLocal(ctx, app.LocalOptions{}, func(ctx context.Context, local *app.Local) error {
			r.State(ctx, apiclient.New(apiclient.Options{
				Server: local.PublicURL, Transport: apiclient.LocalTransport{Handler: local.Handler},
			}))
			return nil
		})
		if err != nil {
			r.fail("storage", "correct the error and run doctor again", "%s", oneLine(err))
		}
	}
}

// settings reports the warnings about settings.
func (r *Report) settings(i Installation) {
	for _, w := range i.Warnings {
		r.warn("configuration", "correct "+w.Setting+" (docs/configuration.md)", "%s: %s", w.Setting, w.Problem)
	}
	for _, w := range i.Config.Dangers() {
		r.warn("configuration", "check "+w.Setting+" (docs/configuration.md)", "%s: %s", w.Setting, w.Problem)
	}
	if len(i.Warnings) == 0 && len(i.Config.Dangers()) == 0 {
		r.ok("configuration", "has no problems")
	}
}

// files checks the data directory, files with secrets and the certificate of the server.
func (r *Report) files(c config.Config) {
	info, err := os.Stat(c.Data)
	switch {
	case err != nil:
		r.fail("data directory", "set data (COUNTERSIGN_DATA) to the data directory, and run doctor as the user of the server", "%s", oneLine(err))
	case info.Mode().Perm()&0o077 != 0:
		r.warn("data directory", fmt.Sprintf("chmod 700 %s", c.Data), "%s can be read by other users", c.Data)
	default:
		r.ok("data directory", "%s", c.Data)
	}
	if root, ok := c.Storage.Parameters["rootdirectory"].(string); ok && c.UpstreamURL == "" && filepath.Dir(root) != c.Data {
		var fs syscall.Statfs_t
		if err := syscall.Statfs(root, &fs); err != nil {
			r.fail("storage", "create the directory, or correct storage", "%s: %s", root, oneLine(err))
		} else {
			r.space("space of the storage", fs.Bavail*uint64(fs.Bsize), fs.Blocks*uint64(fs.Bsize))
		}
	}
	for _, secret := range []struct{ setting, file string }{
		{"tls.key_file", c.TLS.KeyFile}, {"token.private_key_file", c.Token.PrivateKeyFile},
		{"upstream.password_file", c.Upstream.PasswordFile}, {"ldap.password_file", c.LDAP.PasswordFile},
	} {
		if secret.file == "" {
			continue
		}
		switch err := safefile.CheckSecret(secret.file, secret.setting); {
		case errors.Is(err, safefile.ErrUnsafe):
			r.warn(secret.setting, "make the file readable for the user of the server only", "%s", oneLine(err))
		case err != nil:
			r.fail(secret.setting, "correct the path, or run doctor as the user of the server", "%s", oneLine(err))
		default:
			r.ok(secret.setting, "only the user of the server can read %s", secret.file)
		}
	}
	if c.TLS.CertFile != "" {
		r.certificate(c.TLS)
	}
}

// certificate checks the files of the server's certificate.
func (r *Report) certificate(t config.TLS) {
	pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
	if err != nil {
		r.fail("tls.cert_file", "correct the files; a running server keeps the former certificate", "%s", oneLine(err))
		return
	}
	r.expiry("tls.cert_file", pair.Leaf.NotAfter, time.Now(), "renew the certificate; the server reads the new file itself")
}

// database checks that the database answers and that its schema is that of this program. It reports whether other checks can
// use the database.
func (r *Report) database(ctx context.Context, i Installation) bool {
	const check = "database schema"
	if path, missing := i.App.MissingDatabase(); missing {
		r.fail(check, "set COUNTERSIGN_DATA to the data directory of the server, or start the server, which creates it", "there is no database at %s", path)
		return false
	}
	s, err := store.Open(ctx, i.Config.DatabaseURL)
	if err != nil {
		r.fail("database", "start the database, and check database_url", "%s", oneLine(err))
		return false
	}
	defer func() { _ = s.DB.Close() }()
	schema, err := s.DB.Schema(ctx)
	switch {
	case err != nil:
		r.fail(check, "see docs/operations.md, \"Upgrade\"", "%s", oneLine(err))
		return false
	case schema.Older():
		r.fail(check, "run `countersign migrate`; stop an older server before, if the database is SQLite",
			"has version %d, this program needs %d", schema.Database, schema.Binary)
		return false
	case schema.Newer():
		r.warn(check, "finish the upgrade: this program is older than the schema", "has version %d, this program knows %d", schema.Database, schema.Binary)
	default:
		r.ok(check, "has version %d", schema.Database)
	}
	return true
}

// clocks compares the clocks of the database and of Redis with that of this machine.
func (r *Report) clocks(ctx context.Context, i Installation, s *store.Store) {
	if s.DB.IsPostgres() {
		began := time.Now()
		at, err := s.DB.ServerTime(ctx)
		if err != nil {
			r.fail("database", "start the database, and check database_url", "%s", oneLine(err))
		} else {
			r.clock("the database", at, began, time.Since(began))
		}
	}
	q, err := i.App.OpenQueue(ctx)
	if err != nil {
		r.fail("Redis", "check redis_url and redis.ca_file", "%s", oneLine(err))
		return
	}
	defer q.Close()
	if q.Time == nil {
		return
	}
	began := time.Now()
	at, err := q.Time(ctx)
	if err != nil {
		r.fail("Redis", "start Redis; until then workers find tasks by polling the database", "does not answer: %s", oneLine(err))
		return
	}
	r.ok("Redis", "answers")
	r.clock("Redis", at, began, time.Since(began))
}

// keys checks the key of each signing service: whether it has expired, and whether this process can sign with it.
func (r *Report) keys(ctx context.Context, i Installation, s *store.Store, entries *audit.Log) error {
	services, err := s.Signatures.SigningServices(ctx)
	if err != nil {
		return err
	}
	if len(services) == 0 {
		r.warn("keys", "add one with `countersign add-signing-service`", "there is no signing service")
	}
	keys := i.App.Signers()
	for _, v := range services {
		check := "key of " + v.Name
		if key, err := signing.ParsePublicKey(v.PublicKey); err != nil {
			r.fail(check, "remove the service and add it again", "%s", oneLine(err))
			continue
		} else if end := key.Expires(); !end.IsZero() {
			r.expiry(check, end, time.Now(), "extend the validity of the key, or add a service with a new key (docs/operations.md)")
		}
		if err := keys.CheckUsable(v); err != nil {
			r.unusable(check, v, err)
			continue
		}
		if i.NoSign {
			r.ok(check, "can be used by this process")
			continue
		}
		if err := keys.Validate(ctx, v, entries); err != nil {
			r.unusable(check, v, err)
			continue
		}
		r.ok(check, "made a valid test signature")
	}
	return nil
}

// unusable reports a key that this process cannot use. That is no failure by itself: workers on other machines may have it.
func (r *Report) unusable(check string, v pulp.SigningService, err error) {
	r.warn(check, "correct it, unless only workers on other machines have the key: then the finding \"signing service "+v.Name+"\" counts. "+
		"Run doctor as the user of the server", "this process cannot sign with it: %s", oneLine(err))
}
