package api

import (
	"time"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/tasks"
)

// orphanAge is how many minutes content is safe from a cleanup that does not say (contract 2.11).
const orphanAge = 24 * 60

// orphanCleanup is where cleanups are asked for, and what they reserve: one runs at a time.
const orphanCleanup = "orphans/cleanup/"

func (a *API) orphanRoutes() []route {
	return []route{{path: orphanCleanup, methods: post(a.cleanOrphans)}}
}

// cleanOrphans removes everybody's content that nothing refers to, or what of the named content that is. So it is for administrators.
func (a *API) cleanOrphans(req *request) (answer, error) {
	if err := req.staff(); err != nil {
		return answer{}, err
	}
	b, err := req.body()
	if err != nil {
		return answer{}, err
	}
	minutes := int64(orphanAge)
	if n := b.number("orphan_protection_time", 0); n.Value != nil {
		minutes = *n.Value
	}
	units, err := a.readOrphans(req, b)
	if err == nil {
		err = b.finish()
	}
	if err != nil {
		return answer{}, err
	}
	before := time.Now().UnixMicro() - minutes*time.Minute.Microseconds() // more minutes than a Duration holds are allowed
	return a.dispatch(req, "clean up orphans", pulp.Root+orphanCleanup, tasks.Spec{
		Name: tasks.CleanOrphans, Args: tasks.OrphanArgs{Before: before, Units: units},
		Resources: []store.Resource{{Href: pulp.Root + orphanCleanup, Exclusive: true}},
	})
}

// readOrphans reads the field content_hrefs: references to content, each once; nil when the body lacks it.
func (a *API) readOrphans(req *request, b *body) ([]store.Unit, error) {
	const field = "content_hrefs"
	texts := b.texts(field)
	if _, given := b.values[field]; !given {
		return nil, nil
	}
	if len(texts) == 0 && len(b.errs[field]) == 0 {
		b.fail(field, "Must not be [].") // nor may a form's empty field stand for everything
	}
	var units []store.Unit
	named := map[store.Unit]string{}
	byKind := map[pulp.Kind][]string{}
	for _, t := range texts {
		ref, err := reference(t)
		if err != nil {
			b.fail(field, "URI not valid: %s", t)
			continue
		}
		u := store.Unit{Kind: unitKinds[ref.Collection], ID: ref.ID}
		if named[u] == "" {
			units, named[u], byKind[u.Kind] = append(units, u), t, append(byKind[u.Kind], u.ID)
		}
	}
	have := map[pulp.Kind]map[string]bool{}
	for kind, ids := range byKind {
		var err error
		if have[kind], err = a.seenUnits(req, kind, ids); err != nil {
			return nil, err
		}
	}
	for _, u := range units {
		if !have[u.Kind][u.ID] {
			b.fail(field, "URI %s not found for content.", named[u])
		}
	}
	return units, nil
}
