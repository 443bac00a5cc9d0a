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
		return created, s.ownNamespace(t, owner, created.ID, created.Name)
	})
}

// ownNamespace makes an account the owner of a namespace that the transaction has created. The error is Denied if the
// namespace has repositories or remotes, left from a deleted namespace of this name, that the account does not own:
// only administrators may give these away.
func (s *Store) ownNamespace(t *content.Tx, owner int64, id, name string) error {
	var foreign bool
	err := t.Row(`
		WITH left_over (object) AS (
			SELECT 'repository:' || id FROM repository WHERE name = $1 OR name > $1 || '/' AND name < $1 || '0'
			UNION ALL SELECT 'remote:' || id FROM remote WHERE name = $1 OR name > $1 || '/' AND name < $1 || '0')
		SELECT EXISTS (
			SELECT 1 FROM left_over o WHERE NOT EXISTS (
				SELECT 1 FROM role_assignment a JOIN role r ON r.id = a.role_id
				 WHERE a.account_id = $2 AND a.object = o.object AND r.name IN ($3, $4)))
		   AND EXISTS (SELECT 1 FROM account WHERE id = $2 AND NOT is_staff)`,
		name, owner, access.RepositoryOwner, access.RemoteOwner).Scan(&foreign)
	if err == nil && foreign {
		err = fault.New(fault.Denied, "The namespace %s has repositories or remotes of others. Ask an administrator to create it.", name)
	}
	if err != nil {
		return err
	}
	return s.own(t, owner, access.NamespaceOwner, access.Namespace, id)
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
		caches, err := t.Exec(`DELETE FROM pull_through_distribution WHERE namespace_id = $1`, id)
		if err != nil {
			return err
		}
		if caches > 0 {
			removed["container.ContainerPullThroughDistribution"] = caches
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
