package catalog

import (
	"context"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/taskstore"
)

// CreateNamespace keeps a new namespace and returns it with its id. A taken name is a field error.
func (s *Store) CreateNamespace(ctx context.Context, n pulp.Namespace) (pulp.Namespace, error) {
	if n.Labels == nil {
		n.Labels = pulp.Labels{}
	}
	err := s.content.InTx(ctx, func(t *content.Tx) error {
		n.ID, n.Stamps = pulp.NewID(), record.Stamps(t.Now, t.Now)
		_, err := t.Exec(`INSERT INTO namespace (id, name, labels, created, updated) VALUES ($1, $2, $3, $4, $4)`, n.ID, n.Name, sqldb.ToJSON(n.Labels), t.Now)
		return uniqueName(err)
	})
	return n, err
}

// DeleteNamespace removes a namespace with its distributions, and their repositories as DeleteDistribution does, and completes the task whose result
// that is. NotFound when there is none.
func (s *Store) DeleteNamespace(ctx context.Context, claim *taskstore.Claim, id string) error {
	return s.content.InTx(ctx, func(t *content.Tx) error {
		ids, err := sqldb.Collect(t.Ctx, t, sqldb.ScanString, `SELECT id FROM distribution WHERE namespace_id = $1`, id)
		if err != nil {
			return err
		}
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

// labelled are the tables of the objects whose labels can be set one by one.
var labelled = map[string]string{
	pulp.ContainerCollection: "repository", pulp.DistributionCollection: "distribution", pulp.RemoteCollection: "remote",
}

// SetLabel sets a label of an object of a collection. NotFound when there is no such object; Invalid when it has as many labels as it may have.
func (s *Store) SetLabel(ctx context.Context, collection, id, key string, value *string) error {
	return s.editLabels(ctx, collection, id, func(l pulp.Labels) error {
		if _, there := l[key]; !there && len(l) >= pulp.MaxLabels {
			return fault.Field("key", "Ensure this object has no more than %d labels.", pulp.MaxLabels)
		}
		l[key] = value
		return nil
	})
}

// UnsetLabel takes a label away from an object of a collection and returns what it was. NotFound when there is no such object; Invalid when it has no such label.
func (s *Store) UnsetLabel(ctx context.Context, collection, id, key string) (*string, error) {
	var was *string
	err := s.editLabels(ctx, collection, id, func(l pulp.Labels) error {
		v, ok := l[key]
		if !ok {
			return fault.Field("key", "Label with the key '%s' does not exist.", key)
		}
		was = v
		delete(l, key)
		return nil
	})
	return was, err
}

func (s *Store) editLabels(ctx context.Context, collection, id string, edit func(pulp.Labels) error) error {
	table := labelled[collection]
	return s.content.InTx(ctx, func(t *content.Tx) error {
		var text string
		if err := t.Row(`SELECT labels FROM `+table+` WHERE id = $1`+t.Dialect.ForUpdate, id).Scan(&text); err != nil {
			return sqldb.NotFound(err, "Not found.")
		}
		labels := pulp.Labels{}
		if err := sqldb.FromJSON(table+".labels", text, &labels); err != nil {
			return err
		}
		if err := edit(labels); err != nil {
			return err
		}
		_, err := t.Exec(`UPDATE `+table+` SET labels = $2, updated = $3 WHERE id = $1`, id, sqldb.ToJSON(labels), t.Now)
		return err
	})
}
