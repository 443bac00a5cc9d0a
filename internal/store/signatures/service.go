package signatures

import (
	"context"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// SigningService returns the service with this id. The error is NotFound if there is none.
func (s *Store) SigningService(ctx context.Context, id string) (pulp.SigningService, error) {
	v, err := record.ScanService(s.db.Read().QueryRowContext(ctx, `SELECT `+record.ServiceColumns+` FROM signing_service WHERE id = $1`, id))
	return v, sqldb.NotFound(err, "No SigningService matches the given query.")
}

// SigningServiceByName returns the service with this name. The error is NotFound if there is none.
func (s *Store) SigningServiceByName(ctx context.Context, name string) (pulp.SigningService, error) {
	v, err := record.ScanService(s.db.Read().QueryRowContext(ctx, `SELECT `+record.ServiceColumns+` FROM signing_service WHERE name = $1`, name))
	return v, sqldb.NotFound(err, "No SigningService matches the given query.")
}

// SigningServices returns all services, by name. There is no limit, because only operators create services.
func (s *Store) SigningServices(ctx context.Context) ([]pulp.SigningService, error) {
	return sqldb.Collect(ctx, s.db.Read(), record.ScanService, `SELECT `+record.ServiceColumns+` FROM signing_service ORDER BY name`)
}

// AddSigningService stores a new service and returns it with its id. The error is Conflict if the name is taken; its
// text is Pulp's and the next step (compatibility.md#service-commands).
func (s *Store) AddSigningService(ctx context.Context, v pulp.SigningService) (pulp.SigningService, error) {
	return content.InTx(ctx, s.content, func(t *content.Tx) (pulp.SigningService, error) {
		v := v
		v.ID, v.Stamps = pulp.NewID(), record.Stamps(t.Now, t.Now)
		_, err := t.Exec(`
			INSERT INTO signing_service (id, name, class, kind, script, fingerprint, public_key, gnupghome, config, created, updated)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10)`,
			v.ID, v.Name, v.Class, v.Kind, v.Script, v.Fingerprint, v.PublicKey, v.GnuPGHome, sqldb.ToJSON(v.Config), t.Now)
		if sqldb.IsUnique(err) {
			err = fault.New(fault.Conflict, "duplicate key value violates unique constraint: Key (name)=(%s) already exists. "+
				"Choose another name, or remove the existing service with remove-signing-service.", v.Name)
		}
		return v, err
	})
}

// RemoveSigningService deletes the service with this name and class, and its assignments. The error is NotFound if
// there is none.
func (s *Store) RemoveSigningService(ctx context.Context, name, class string) error {
	return s.content.InTx(ctx, func(t *content.Tx) error {
		if _, err := t.Exec(`UPDATE repository SET signing_service_id = NULL, signing_assigned = ''
			 WHERE signing_service_id IN (SELECT id FROM signing_service WHERE name = $1 AND class = $2)`, name, class); err != nil {
			return err
		}
		n, err := t.Exec(`DELETE FROM signing_service WHERE name = $1 AND class = $2`, name, class)
		if err == nil && n == 0 {
			return fault.New(fault.NotFound, "Signing service '%s' does not exist.", name)
		}
		return err
	})
}
