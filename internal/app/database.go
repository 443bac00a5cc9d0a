package app

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/store"
)

// adminName is the user who may do everything from the start.
const adminName = "admin"

// databasePath is the database's file.
func (p *Program) databasePath() string {
	path, _ := strings.CutPrefix(p.config.DatabaseURL, "sqlite:")
	return strings.TrimPrefix(path, "//")
}

// withExisting opens the database for a verb that makes no sense without one: called in the wrong directory it says so.
func (p *Program) withExisting(do func(*store.Store) error) error {
	if store.IsPostgres(p.config.DatabaseURL) {
		return p.withStore(do)
	}
	if _, err := os.Stat(p.databasePath()); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("there is no database at %s; COUNTERSIGN_DATA names the data directory", p.databasePath())
	}
	return p.withStore(do)
}

// withStore opens the database for a verb that may run beside a server, making it on a first run. It never migrates what a server uses.
func (p *Program) withStore(do func(*store.Store) error) error {
	s, err := store.Open(p.ctx, p.config.DatabaseURL)
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	pending, err := s.Pending(p.ctx)
	if err != nil {
		return err
	}
	if pending && store.IsPostgres(p.config.DatabaseURL) {
		return errOldSchema
	}
	if pending {
		if err := p.migrate(s); err != nil {
			return err
		}
	}
	return do(s)
}

// errOldSchema is said of a shared database: other processes may be using it, so only an operator migrates it.
var errOldSchema = errors.New("the database's schema is older than this program, or there is none yet: run `countersign migrate`")

// openShared opens a database that other processes use too. Its schema must be this program's.
func (p *Program) openShared() (*store.Store, error) {
	s, err := store.Open(p.ctx, p.config.DatabaseURL)
	if err != nil {
		return nil, err
	}
	pending, err := s.Pending(p.ctx)
	if err == nil && pending {
		err = errOldSchema
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// migrate brings the schema up to date while no server runs.
func (p *Program) migrate(s *store.Store) error {
	lock, err := store.LockDir(filepath.Dir(p.databasePath()))
	if fault.Is(err, fault.Conflict) {
		return errors.New("the database's schema is older than this program, and a server is using it: stop the server first")
	} else if err != nil {
		return err
	}
	return errors.Join(s.Migrate(p.ctx), lock.Release())
}

type MigrateCommand struct{}

// Run migrates the database.
func (MigrateCommand) Run(p *Program) error {
	if store.IsPostgres(p.config.DatabaseURL) {
		s, err := store.Open(p.ctx, p.config.DatabaseURL)
		if err != nil {
			return err
		}
		defer func() { _ = s.Close() }()
		if err := s.Migrate(p.ctx); err != nil {
			return err
		}
		_, err = fmt.Fprintln(p.out, "The database's schema is up to date.")
		return err
	}
	return p.withStore(func(*store.Store) error {
		_, err := fmt.Fprintln(p.out, "The database's schema is up to date.")
		return err
	})
}

type ResetAdminCommand struct {
	Password string `help:"The new password; without it one is made and printed." placeholder:"P"`
}

// Run sets the admin's password.
func (c ResetAdminCommand) Run(p *Program) error {
	return p.withExisting(func(s *store.Store) error {
		password := c.Password
		if password == "" {
			password = rand.Text()
		}
		if err := p.putAdmin(s, password); err != nil {
			return err
		}
		if c.Password == "" {
			_, err := fmt.Fprintf(p.out, "The password of %s is now %s\n", adminName, password)
			return err
		}
		_, err := fmt.Fprintf(p.out, "The password of %s is changed.\n", adminName)
		return err
	})
}

func (p *Program) putAdmin(s *store.Store, password string) error {
	hash, err := auth.HashPassword(password)
	if err != nil {
		return err
	}
	_, err = s.PutUser(p.ctx, adminName, hash, true, true)
	return err
}

// ensureAdmin sees that there is an admin with the configured password. On a first start without one it makes a password and
// returns it, to be shown once.
func (p *Program) ensureAdmin(s *store.Store, users *auth.Auth) (string, error) {
	configured := p.config.AdminPassword.Reveal()
	_, err := s.UserByName(p.ctx, adminName)
	switch {
	case configured != "":
		if _, err := users.Login(p.ctx, adminName, configured); err == nil {
			return "", nil // unchanged: keep the hash
		}
		return "", p.putAdmin(s, configured)
	case fault.Is(err, fault.NotFound):
		made := rand.Text()
		return made, p.putAdmin(s, made)
	}
	return "", err
}
