package api

import (
	"time"

	"github.com/countersign/countersign/api/internal/body"
	"github.com/countersign/countersign/api/internal/reply"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/tasks"
)

// orphanAge is the default age in minutes below which a cleanup keeps content (compatibility.md#orphan-cleanup).
const orphanAge = 24 * 60

// orphanCleanup is the path of cleanups. Its href is the resource that they reserve, so that one runs at a time.
const orphanCleanup = "orphans/cleanup/"

func (a *API) orphanRoutes() []route {
	return []route{{path: orphanCleanup, methods: post(operation{
		verb: "cleanup", handle: a.cleanOrphans, replies: startsTask,
		body: body.Form{"orphan_protection_time": body.Int(0), "content_hrefs": body.Texts.NotEmpty()},
	})}}
}

// cleanOrphans starts a task that deletes content that nothing refers to: all of it, or only the given units. It
// affects content of every user, so only administrators may call it.
func (a *API) cleanOrphans(req *request) (reply.Reply, error) {
	if err := req.requireAdministrator(); err != nil {
		return reply.Reply{}, err
	}
	b, err := body.Read(req.Request)
	if err != nil {
		return reply.Reply{}, err
	}
	minutes := int64(orphanAge)
	if n := b.Int("orphan_protection_time", 0); n.Value != nil {
		minutes = *n.Value
	}
	units, err := a.readOrphans(req, b)
	if err == nil {
		err = b.Finish()
	}
	if err != nil {
		return reply.Reply{}, err
	}
	before := time.Now().UnixMicro() - minutes*time.Minute.Microseconds() // a time.Duration could overflow
	return a.dispatch(req, "clean up orphans", pulp.Root+orphanCleanup, tasks.Spec{
		Name: tasks.CleanOrphans, Args: tasks.OrphanArgs{Before: before, Units: units},
		Resources: []taskstore.Resource{{Href: pulp.Root + orphanCleanup, Exclusive: true}},
	})
}

// readOrphans reads the field content_hrefs. It returns each unit once, or nil when the body lacks the field.
func (a *API) readOrphans(req *request, b *body.Fields) ([]record.Unit, error) {
	const field = "content_hrefs"
	texts := b.Texts(field)
	if !b.Has(field) {
		return nil, nil
	}
	if len(texts) == 0 && b.Valid(field) { // an empty field of a form is no list either: it would mean all content
		b.Fail(field, "Must not be [].")
	}
	var units []record.Unit
	textOf := map[record.Unit]string{}
	byKind := map[pulp.Kind][]string{}
	for _, t := range texts {
		ref, err := parseReference(t)
		if err != nil {
			b.Fail(field, "URI not valid: %s", t)
			continue
		}
		u := record.Unit{Kind: unitKinds[ref.Collection], ID: ref.ID}
		if textOf[u] == "" {
			units, textOf[u], byKind[u.Kind] = append(units, u), t, append(byKind[u.Kind], u.ID)
		}
	}
	found := map[pulp.Kind]map[string]bool{}
	for kind, ids := range byKind {
		var err error
		if found[kind], err = a.visibleUnits(req, kind, ids); err != nil {
			return nil, err
		}
	}
	for _, u := range units {
		if !found[u.Kind][u.ID] {
			b.Fail(field, "URI %s not found for content.", textOf[u])
		}
	}
	return units, nil
}
