package catalog

import (
	"context"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// labeled are the tables of the collections of objects with labels, and the columns of the labels.
var labeled = map[string]struct{ table, column string }{
	pulp.ContainerCollection:         {"repository", "labels"},
	pulp.DistributionCollection:      {"distribution", "labels"},
	pulp.RemoteCollection:            {"remote", "labels"},
	pulp.BlobCollection:              {"blob", "pulp_labels"},
	pulp.ManifestCollection:          {"manifest", "pulp_labels"},
	pulp.TagCollection:               {"tag", "pulp_labels"},
	pulp.SignatureCollection:         {"signature", "pulp_labels"},
	pulp.PullThroughCollection:       {"pull_through_distribution", "labels"},
	pulp.PullThroughRemoteCollection: {"pull_through_remote", "labels"},
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
	in := labeled[collection]
	return content.InTx(ctx, s.content, func(t *content.Tx) (result T, err error) {
		var text string
		if err := t.Row(`SELECT `+in.column+` FROM `+in.table+` WHERE id = $1`+t.Dialect.ForUpdate, id).Scan(&text); err != nil {
			return result, sqldb.NotFound(err, "Not found.")
		}
		labels := pulp.Labels{}
		if err := sqldb.FromJSON(in.table+"."+in.column, text, &labels); err != nil {
			return result, err
		}
		if result, err = edit(labels); err != nil {
			return result, err
		}
		_, err = t.Exec(`UPDATE `+in.table+` SET `+in.column+` = $2, updated = $3 WHERE id = $1`, id, sqldb.ToJSON(labels), t.Now)
		return result, err
	})
}
