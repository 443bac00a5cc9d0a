package catalog

import (
	"context"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/taskstore"
)

// CreateNamespace stores a new namespace and returns it with its id. The account owner gets the owner's role; 0 for none.
// The error has the field "name" if the name is taken.
func (s *Store) CreateNamespace(ctx context.Context, n pulp.Namespace, owner int64) (pulp.Namespace, error) {
	return content.InTx(ctx, s.content, func(t *content.Tx) (pulp.Namespace, error) {
		created := n
		created.ID, created.Stamps = pulp.NewID(), record.Stamps(t.Now, t.Now)
		if created.Labels == nil {
			created.Labels = pulp.Labels{}
		}
		_, err := t.Exec(`INSERT INTO namespace (id, name, labels, created, updated) VALUES ($1, $2, $3, $4, $4)`,
			created.ID, created.Name, sqldb.ToJSON(created.Labels), t.Now)
		if err != nil {
			return created, uniqueName(err)
		}
		return created, s.own(t, owner, access.NamespaceOwner, access.Namespace, created.ID)
	})
}

// DeleteNamespace deletes a namespace with its distributions, and their repositories under the conditions of
// DeleteDistribution. The error is NotFound if there is no such namespace.
func (s *Store) DeleteNamespace(ctx context.Context, claim *taskstore.Claim, id string) error {
	return s.content.InTx(ctx, func(t *content.Tx) error {
		ids, err := sqldb.Collect(t.Ctx, t, sqldb.ScanString, `SELECT id FROM distribution WHERE namespace_id = $1`, id)
		if err != nil {
			return err
		}
		s.accounts.Changed(t.Tx)
		removed := map[string]int64{}
		for _, d := range ids {
			if err := deleteDistribution(t, d, removed); err != nil {
				return err
			}
		}
		n, err := t.Exec(`DELETE FROM namespace WHERE id = $1`, id)
		if err == nil && n == 0 {
			return fault.New(fault.NotFound, "No ContainerNamespace matches the given query.")
		}
		if err != nil {
			return err
		}
		removed["container.ContainerNamespace"] = n
		return taskstore.Complete(t.Tx, claim, taskstore.Outcome{Result: removed})
	})
}
