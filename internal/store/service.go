package store

import (
	"context"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

const serviceColumns = `id, name, class, kind, script, fingerprint, public_key, gnupghome, config, created, updated`

func scanService(row scanner) (pulp.SigningService, error) {
	var v pulp.SigningService
	var config string
	var created, updated int64
	if err := row.Scan(&v.ID, &v.Name, &v.Class, &v.Kind, &v.Script, &v.Fingerprint, &v.PublicKey, &v.GnuPGHome, &config, &created, &updated); err != nil {
		return pulp.SigningService{}, err
	}
	v.Stamps = stamps(created, updated)
	return v, fromJSON("signing_service.config", config, &v.Config)
}

// SigningService returns the service with this id. NotFound when there is none.
func (s *Store) SigningService(ctx context.Context, id string) (pulp.SigningService, error) {
	v, err := scanService(s.read.QueryRowContext(ctx, `SELECT `+serviceColumns+` FROM signing_service WHERE id = $1`, id))
	return v, notFound(err, "No SigningService matches the given query.")
}

// SigningServiceByName returns the service with this name. NotFound when there is none.
func (s *Store) SigningServiceByName(ctx context.Context, name string) (pulp.SigningService, error) {
	v, err := scanService(s.read.QueryRowContext(ctx, `SELECT `+serviceColumns+` FROM signing_service WHERE name = $1`, name))
	return v, notFound(err, "No SigningService matches the given query.")
}

// SigningServices returns all services by name. There are few: an operator makes them by hand.
func (s *Store) SigningServices(ctx context.Context) ([]pulp.SigningService, error) {
	return collect(ctx, s.read, scanService, `SELECT `+serviceColumns+` FROM signing_service ORDER BY name`)
}

// AddSigningService keeps a new service and returns it with its id. A taken name is a Conflict that names it (contract 5.2).
func (s *Store) AddSigningService(ctx context.Context, v pulp.SigningService) (pulp.SigningService, error) {
	v.ID = pulp.NewID()
	err := s.inTx(ctx, func(t *tx) error {
		v.Stamps = stamps(t.now, t.now)
		_, err := t.exec(`
			INSERT INTO signing_service (id, name, class, kind, script, fingerprint, public_key, gnupghome, config, created, updated)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10)`,
			v.ID, v.Name, v.Class, v.Kind, v.Script, v.Fingerprint, v.PublicKey, v.GnuPGHome, toJSON(v.Config), t.now)
		if isUnique(err) {
			return fault.New(fault.Conflict, "duplicate key value violates unique constraint: Key (name)=(%s) already exists.", v.Name)
		}
		return err
	})
	return v, err
}

// RemoveSigningService removes the service of this name and class; repositories that used it have none then. NotFound when there is none.
func (s *Store) RemoveSigningService(ctx context.Context, name, class string) error {
	return s.inTx(ctx, func(t *tx) error {
		if _, err := t.exec(`UPDATE repository SET signing_service_id = NULL, signing_assigned = ''
			 WHERE signing_service_id IN (SELECT id FROM signing_service WHERE name = $1 AND class = $2)`, name, class); err != nil {
			return err
		}
		n, err := t.exec(`DELETE FROM signing_service WHERE name = $1 AND class = $2`, name, class)
		if err == nil && n == 0 {
			return fault.New(fault.NotFound, "Signing service '%s' does not exist.", name)
		}
		return err
	})
}
