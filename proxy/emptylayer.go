package proxy

import (
	"context"
	"slices"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
)

// emptyLayer returns the empty layer as an inline blob.
func emptyLayer() pulp.Blob {
	content := pulp.EmptyLayerContent()
	return pulp.Blob{Digest: pulp.EmptyLayer, Size: int64(len(content)), Data: content, Inline: true}
}

// addEmptyLayer adds the empty layer to a repository without an upload. If there is an upstream it stores the layer
// there too. See compatibility.md#empty-layer.
func (c *call) addEmptyLayer(t record.Target) error {
	ctx := c.r.Context()
	if c.manifests == nil {
		if b, err := c.Store.Serving.ServedBlob(ctx, t, pulp.EmptyLayer); err == nil && !b.Absent ||
			err != nil && !fault.Is(err, fault.NotFound) {
			return err
		}
	}
	b, err := c.blobs.EmptyLayer(ctx, t.Repository.UpstreamName())
	if err != nil {
		return err
	}
	return c.blobs.Record(
		ctx,
		b,
		func(ctx context.Context, b pulp.Blob) error {
			return c.Store.Content.CommitBlob(ctx, t.Repository.ID, b, "", 0)
		},
		nil,
	)
}

// referencesEmptyLayer reports whether a manifest references the empty layer.
func referencesEmptyLayer(m pulp.Manifest) bool {
	return slices.ContainsFunc(m.Layers, func(d pulp.Descriptor) bool { return d.Digest == pulp.EmptyLayer })
}
