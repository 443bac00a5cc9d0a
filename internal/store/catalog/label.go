package catalog

import (
	"context"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// labeled are the tables of the collections of objects with labels.
var labeled = map[string]string{
	pulp.ContainerCollection: "repository", pulp.DistributionCollection: "distribution", pulp.RemoteCollection: "remote",
	pulp.PullThroughCollection: "pull_through_distribution", pulp.PullThroughRemoteCollection: "pull_through_remote",
}

// SetLabel sets a label of an object of a collection. The error is NotFound if there is no such object, and Invalid if the
// label is new and the object already has pulp.MaxLabels labels.
func (s *Store) SetLabel(ctx context.Context, collection, id, key string, value *string) error {
	_, err := editLabels(ctx, s, collection, id, func(l pulp.Labels) (struct{}, error) {
		if _, ok := l[key]; !ok && len(l) >= pulp.MaxLabels {
			return struct{}{}, fault.Field("key", "Ensure this object has no more than %d labels.", pulp.MaxLabels)
		}
		l[key] = value
		return struct{}{}, nil
	})
	return err
}

// UnsetLabel removes a label of an object of a collection and returns the label's value. The error is NotFound if there is
// no such object, and Invalid if the object has no such label.
func (s *Store) UnsetLabel(ctx context.Context, collection, id, key string) (*string, error) {
	return editLabels(ctx, s, collection, id, func(l pulp.Labels) (*string, error) {
		value, ok := l[key]
		if !ok {
			return nil, fault.Field("key", "Label with the key '%s' does not exist.", key)
		}
		delete(l, key)
		return value, nil
	})
}

// editLabels changes the labels of an object with edit and returns its result.
func editLabels[T any](ctx context.Context, s *Store, collection, id string, edit func(pulp.Labels) (T, error)) (T, error) {
	table := labeled[collection]
	return content.InTx(ctx, s.content, func(t *content.Tx) (result T, err error) {
		var text string
		if err := t.Row(`SELECT labels FROM `+table+` WHERE id = $1`+t.Dialect.ForUpdate, id).Scan(&text); err != nil {
			return result, sqldb.NotFound(err, "Not found.")
		}
		labels := pulp.Labels{}
		if err := sqldb.FromJSON(table+".labels", text, &labels); err != nil {
			return result, err
		}
		if result, err = edit(labels); err != nil {
			return result, err
		}
		_, err = t.Exec(`UPDATE `+table+` SET labels = $2, updated = $3 WHERE id = $1`, id, sqldb.ToJSON(labels), t.Now)
		return result, err
	})
}
