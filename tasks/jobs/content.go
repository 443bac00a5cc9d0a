package jobs

import (
	"context"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/tasks"
)

// Jobs that change a repository's content in a single transaction.

func (o Options) tag(ctx context.Context, r *tasks.Run, args tasks.TagArgs) error {
	_, err := o.Store.Content.TagManifest(ctx, r.Claim, args.RepositoryID, args.Tag, args.Digest)
	return err
}

func (o Options) untag(ctx context.Context, r *tasks.Run, args tasks.TagArgs) error {
	_, err := o.Store.Content.Untag(ctx, r.Claim, args.RepositoryID, args.Tag)
	return err
}

func (o Options) addContent(ctx context.Context, r *tasks.Run, args tasks.AddArgs) (err error) {
	if args.Copy != nil {
		_, err = o.Store.Content.CopyContent(ctx, r.Claim, args.RepositoryID, *args.Copy)
	} else {
		viewer, viewerErr := o.Access.Viewer(ctx, &access.Caller{Account: r.User()})
		if viewerErr != nil {
			return viewerErr
		}
		_, err = o.Store.Content.AddContent(ctx, r.Claim, args.RepositoryID, args.Units, viewer)
	}
	return err
}

func (o Options) removeContent(ctx context.Context, r *tasks.Run, args tasks.RemoveArgs) (err error) {
	switch {
	case args.All:
		_, err = o.Store.Content.RemoveAll(ctx, r.Claim, args.RepositoryID)
	case args.Image != "":
		_, err = o.Store.Content.RemoveImage(ctx, r.Claim, args.RepositoryID, args.Image)
	default:
		_, err = o.Store.Content.RemoveContent(ctx, r.Claim, args.RepositoryID, args.Units)
	}
	return err
}

func (o Options) removeSignatures(ctx context.Context, r *tasks.Run, args tasks.RemoveSignaturesArgs) error {
	_, err := o.Store.Content.RemoveSignatures(ctx, r.Claim, args.RepositoryID, args.KeyID)
	return err
}

func (o Options) restore(ctx context.Context, r *tasks.Run, args tasks.VersionArgs) error {
	_, err := o.Store.Content.Restore(ctx, r.Claim, args.RepositoryID, args.Number)
	return err
}

func (o Options) deleteVersion(ctx context.Context, r *tasks.Run, args tasks.VersionArgs) error {
	return o.Store.Content.DeleteVersion(ctx, r.Claim, args.RepositoryID, args.Number)
}
