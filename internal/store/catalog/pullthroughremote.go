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

// pullThroughRemoteValues returns the values of a pull-through remote's columns: id, name, url, includes, excludes, sigstore,
// connection, secrets, labels.
func pullThroughRemoteValues(r pulp.Remote) []any {
	all := remoteValues(r)
	return append(all[:3:3], all[5:]...) // without upstream_name and policy
}

// PullThroughRemote returns the pull-through remote with an id. The error is NotFound if there is none.
func (s *Store) PullThroughRemote(ctx context.Context, id string) (pulp.Remote, error) {
	return record.FindPullThroughRemote(ctx, s.db.Read(), id)
}

// CreatePullThroughRemote stores a new pull-through remote and returns it with its id. The account owner gets the owner's
// role; 0 for none. The error has the field "name" if the name is taken.
func (s *Store) CreatePullThroughRemote(ctx context.Context, r pulp.Remote, owner int64) (pulp.Remote, error) {
	return content.InTx(ctx, s.content, func(t *content.Tx) (pulp.Remote, error) {
		created := r
		created.ID, created.Stamps = pulp.NewID(), record.Stamps(t.Now, t.Now)
		created.PullThrough, created.Policy, created.UpstreamName = true, pulp.OnDemand, ""
		_, err := t.Exec(`
			INSERT INTO pull_through_remote (id, name, url, includes, excludes, sigstore, connection, secrets, labels, created, updated)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10)`, append(pullThroughRemoteValues(created), t.Now)...)
		if err != nil {
			return created, uniqueName(err)
		}
		return created, s.own(t, owner, access.PullThroughRemoteOwner, access.PullThroughRemote, created.ID)
	})
}

// EditPullThroughRemote changes a pull-through remote with edit and returns it as it is afterwards. The change applies to the
// remotes of the cached repositories. The error is NotFound if there is no such remote, and has the field "name" if the name
// is taken.
func (s *Store) EditPullThroughRemote(
	ctx context.Context, claim *taskstore.Claim, id string, edit func(*pulp.Remote),
) (pulp.Remote, error) {
	return content.InTx(ctx, s.content, func(t *content.Tx) (r pulp.Remote, err error) {
		if err := t.LockRow("pull_through_remote", id); err != nil {
			return r, err
		}
		before, err := record.FindPullThroughRemote(t.Ctx, t, id)
		if err != nil {
			return r, err
		}
		r = before
		edit(&r)
		r.ID, r.Updated = id, sqldb.FromMicros(t.Now)
		r.PullThrough, r.Policy, r.UpstreamName = true, pulp.OnDemand, ""
		_, err = t.Exec(`
			UPDATE pull_through_remote SET name = $2, url = $3, includes = $4, excludes = $5, sigstore = $6, connection = $7,
			       secrets = $8, labels = $9, updated = $10
			 WHERE id = $1`, append(pullThroughRemoteValues(r), t.Now)...)
		if err := uniqueName(err); err != nil {
			return r, err
		}
		if !r.SameSource(before) {
			if err := changedCacheRemotes(t, r); err != nil {
				return r, err
			}
		}
		return r, taskstore.Complete(t.Tx, claim, taskstore.Outcome{Result: r})
	})
}

// changedCacheRemotes copies the URL of a pull-through remote, which lists sort by, to the remotes of cached repositories,
// and forgets their failures.
func changedCacheRemotes(t *content.Tx, r pulp.Remote) error {
	if _, err := t.Exec(`UPDATE remote SET url = $2 WHERE pull_through_id = $1`, r.ID, r.URL); err != nil {
		return err
	}
	_, err := t.Exec(`
		UPDATE claim_source SET lacked = 0, failed = 0 WHERE (lacked > 0 OR failed > 0)
		   AND remote_id IN (SELECT id FROM remote WHERE pull_through_id = $1)`, r.ID)
	return err
}

// DeletePullThroughRemote deletes a pull-through remote and the remotes of the repositories that were cached from it. Its
// distributions remain and fetch nothing any more. The error is NotFound if there is no such remote.
func (s *Store) DeletePullThroughRemote(ctx context.Context, claim *taskstore.Claim, id string) error {
	return s.content.InTx(ctx, func(t *content.Tx) error {
		derived, err := t.Exec(`DELETE FROM remote WHERE pull_through_id = $1`, id)
		if err != nil {
			return err
		}
		n, err := t.Exec(`DELETE FROM pull_through_remote WHERE id = $1`, id)
		if err == nil && n == 0 {
			return fault.New(fault.NotFound, "No ContainerPullThroughRemote matches the given query.")
		}
		if err != nil {
			return err
		}
		removed := map[string]int64{"container.ContainerPullThroughRemote": n}
		if derived > 0 {
			removed["container.ContainerRemote"] = derived
		}
		return taskstore.Complete(t.Tx, claim, taskstore.Outcome{Result: removed})
	})
}
