package taskstore

import (
	"database/sql"
	"errors"

	"github.com/countersign/countersign/internal/actor"
	"github.com/countersign/countersign/internal/events"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/eventlog"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// announce records the event that a task has ended, in the transaction that ended it, if a webhook may receive it. A task is
// about the repository that it reserves exclusively, unless there are several.
func announce(t *sqldb.Tx, id string) error {
	data, about, err := ended(t, id)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	} else if err != nil {
		return err
	}
	r, err := repositoryOf(t, about)
	if err != nil {
		return err
	}
	to, err := eventlog.For(t, r.ID, r.Name)
	if err != nil || !to.Wants(events.TaskEnded, events.SyncEnded) {
		return err
	}
	path, subject := pulp.Root, ""
	if r.ID != "" {
		shown, err := eventlog.Repository(t, r)
		if err != nil {
			return err
		}
		data.Repository, path, subject = &shown, shown.Href, shown.Name
		if shown.BasePath != nil {
			subject = *shown.BasePath
		}
	}
	kinds := []events.Type{events.TaskEnded}
	if data.Task.Name == SyncTask {
		kinds = []events.Type{events.SyncEnded, events.TaskEnded}
	}
	for _, kind := range kinds {
		e, err := events.New(kind, path, subject, data)
		if err != nil {
			return err
		}
		to.Record(e)
	}
	return nil
}

// ended returns the data of the event that a task has ended, and the reference to its repository. The error is sql.ErrNoRows
// if no event is needed.
func ended(t *sqldb.Tx, id string) (data events.TaskData, about pulp.Ref, err error) {
	var origin Origin
	var failure, name, kind sql.NullString
	var started sql.NullInt64
	var finished int64
	var reserved, created string
	task := &data.Task
	err = t.Row(`
		SELECT k.name, k.state, k.error, k.resources, k.created_resources, k.started, k.finished, k.logging_cid, k.origin, a.username, a.kind
		  FROM task k LEFT JOIN account a ON a.id = k.created_by WHERE k.id = $1 AND k.name <> $2 AND `+eventlog.Listening, id, PushSigningTask).
		Scan(&task.Name, &task.State, &failure, &reserved, &created, &started, &finished, &task.LoggingCID, &origin, &name, &kind)
	if err != nil {
		return data, about, err
	}
	task.Href = pulp.Href(pulp.TaskCollection, id)
	task.StartedAt, task.FinishedAt = sqldb.FromNullMicros(started), sqldb.FromMicros(finished)
	data.Actor = events.Actor{Name: name.String, Kind: kind.String}
	switch origin {
	case OriginCommand:
		data.Actor = events.Actor{Name: actor.CommandName, Kind: string(actor.Command)}
	case OriginSystem:
		data.Actor = events.Actor{Name: actor.SystemName, Kind: string(actor.System)}
	case OriginUser, OriginUnknown:
	}
	if failure.Valid {
		var e TaskError
		if err := sqldb.FromJSON("task.error", failure.String, &e); err != nil {
			return data, about, err
		}
		task.Error = &e.Description
	}
	var resources []Resource
	var made []Created
	if err := errors.Join(sqldb.FromJSON("task.resources", reserved, &resources), sqldb.FromJSON("task.created_resources", created, &made)); err != nil {
		return data, about, err
	}
	task.CreatedResources = make([]string, len(made))
	for i, m := range made {
		task.CreatedResources[i] = m.Href
		if ref, ok := pulp.ParseRef(m.Href); ok && ref.Version >= 0 && data.Version == nil {
			data.Version = &events.Version{Number: ref.Version, Href: m.Href}
		}
	}
	return data, onlyRepository(resources), nil
}

// onlyRepository returns the reference to the one repository among exclusively reserved resources; zero if there are none or
// several.
func onlyRepository(resources []Resource) (only pulp.Ref) {
	for _, r := range resources {
		ref, ok := pulp.ParseRef(r.Href)
		if !ok || !r.Exclusive || ref.Version >= 0 || ref.Collection != pulp.PushCollection && ref.Collection != pulp.ContainerCollection {
			continue
		}
		if only.ID != "" && only.ID != ref.ID {
			return pulp.Ref{}
		}
		only = ref
	}
	return only
}

// repositoryOf returns the repository of a reference; zero if there is none any more.
func repositoryOf(t *sqldb.Tx, ref pulp.Ref) (pulp.Repository, error) {
	if ref.ID == "" {
		return pulp.Repository{}, nil
	}
	r, err := record.ScanRepository(t.Row(`SELECT `+record.RepositoryColumns+` FROM repository r WHERE r.id = $1`, ref.ID))
	if err = sqldb.NotFound(err, ""); fault.Is(err, fault.NotFound) {
		return pulp.Repository{}, nil
	}
	return r, err
}
