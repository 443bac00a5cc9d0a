package cli

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"

	"github.com/countersign/countersign/internal/apiclient"
)

// The changes of an object between two versions.
const (
	added   = "added"
	removed = "removed"
	moved   = "moved"
)

type diffVersionsCommand struct {
	Repository string `arg:"" help:"Name or path of the repository."`
	From       int64  `arg:"" name:"a" help:"Number of the first version."`
	To         *int64 `arg:"" name:"b" optional:"" help:"Number of the second version. Default: the latest."`
	Stat       bool   `help:"Show the numbers of changed objects only."`
	apiOptions
}

// Help describes the output.
func (diffVersionsCommand) Help() string {
	return `The output lists the tags, manifests and signatures that the second version has and the first does not (added), those that only the first has (removed), and the tags with another manifest (moved).

    countersign version diff team/app 3       # the changes since version 3
    countersign version diff team/app 3 7`
}

// change is a difference between two versions.
type change struct {
	Change string `json:"change"` // added, removed or moved
	Kind   string `json:"kind"`   // tag, manifest or signature
	Name   string `json:"name"`   // of a tag or a signature; the digest of a manifest
	From   string `json:"from,omitempty"`
	To     string `json:"to,omitempty"`
}

// Run runs the command.
func (o diffVersionsCommand) Run(ctx context.Context, c *console) error {
	r, err := parseReference(o.Repository)
	if err != nil {
		return err
	}
	return c.connect(ctx, connection{options: o.apiOptions, reference: r}, func(ctx context.Context, s *session) error {
		repo, err := s.repositoryOf(ctx, r)
		if err != nil {
			return err
		}
		to := repo.V.latest()
		if o.To != nil {
			to = *o.To
		}
		for _, number := range []int64{o.From, to} {
			if _, err := s.readVersion(ctx, repo.V, number); err != nil {
				return err
			}
		}
		changes, err := s.diff(ctx, repo.V.versionHref(o.From), repo.V.versionHref(to))
		if err != nil {
			return err
		}
		if o.Stat {
			return s.show(statOf(changes), statTable(changes))
		}
		return s.show(changes, diffTable(changes))
	})
}

// diff returns the differences between two versions.
func (s *session) diff(ctx context.Context, from, to string) ([]change, error) {
	type tagged struct{ added, removed []tag }
	var tags tagged
	var err error
	if tags.added, err = between[tag](ctx, s, tagsPath, "added_between", from, to, "pulp_href,name,tagged_manifest"); err != nil {
		return nil, err
	}
	if tags.removed, err = between[tag](ctx, s, tagsPath, "removed_between", from, to, "pulp_href,name,tagged_manifest"); err != nil {
		return nil, err
	}
	manifests := map[string]manifest{}
	var hrefs []string
	for _, t := range slices.Concat(tags.added, tags.removed) {
		hrefs = append(hrefs, t.Manifest)
	}
	if err := s.addManifests(ctx, manifests, hrefs); err != nil {
		return nil, err
	}
	changes := tagChanges(tags.added, tags.removed, manifests)
	for _, way := range []struct{ filter, change string }{{"added_between", added}, {"removed_between", removed}} {
		units, err := between[manifest](ctx, s, manifestsPath, way.filter, from, to, "pulp_href,digest")
		if err != nil {
			return nil, err
		}
		for _, m := range units {
			changes = append(changes, change{Change: way.change, Kind: "manifest", Name: m.Digest})
		}
		signatures, err := between[signature](ctx, s, signaturesPath, way.filter, from, to, "pulp_href,name,key_id,docker_reference")
		if err != nil {
			return nil, err
		}
		for _, g := range signatures {
			changes = append(changes, change{Change: way.change, Kind: "signature", Name: g.Reference + " by key " + g.KeyID})
		}
	}
	order := map[string]int{"tag": 0, "manifest": 1, "signature": 2}
	slices.SortStableFunc(changes, func(a, b change) int {
		return cmp.Or(cmp.Compare(order[a.Kind], order[b.Kind]), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Change, b.Change))
	})
	return changes, nil
}

// between returns the content of one kind that only one of two versions has.
func between[T any](ctx context.Context, s *session, path, filter, from, to, fields string) ([]T, error) {
	found, _, err := apiclient.List[T](ctx, s.api, path, url.Values{filter: {from + "," + to}, "fields": {fields}}, 0)
	return found, err
}

// tagChanges returns the changes of tags. A tag that both versions have with different manifests has moved.
func tagChanges(newer, older []tag, manifests map[string]manifest) []change {
	before := map[string]string{}
	for _, t := range older {
		before[t.Name] = manifests[t.Manifest].Digest
	}
	changes := []change{}
	for _, t := range newer {
		c := change{Change: added, Kind: "tag", Name: t.Name, To: manifests[t.Manifest].Digest}
		if from, had := before[t.Name]; had {
			c.Change, c.From = moved, from
			delete(before, t.Name)
		}
		changes = append(changes, c)
	}
	for _, name := range slices.Sorted(maps.Keys(before)) {
		changes = append(changes, change{Change: removed, Kind: "tag", Name: name, From: before[name]})
	}
	return changes
}

// diffTable returns differences as a table.
func diffTable(changes []change) table {
	if len(changes) == 0 {
		return table{rows: [][]cell{{{text: "no differences"}}}}
	}
	colours := map[string]colour{added: green, removed: red, moved: yellow}
	t := table{header: []string{"CHANGE", "KIND", "NAME", "MANIFEST"}}
	for _, c := range changes {
		digests := c.From
		if c.From != "" && c.To != "" {
			digests += " -> "
		}
		digests += c.To
		t.rows = append(t.rows, []cell{{c.Change, colours[c.Change]}, {text: c.Kind}, {text: c.Name}, {text: digests}})
	}
	return t
}

// statOf returns the numbers of changes by kind and change.
func statOf(changes []change) map[string]map[string]int {
	numbers := map[string]map[string]int{}
	for _, kind := range []string{"tag", "manifest", "signature"} {
		numbers[kind] = map[string]int{added: 0, removed: 0}
	}
	numbers["tag"][moved] = 0
	for _, c := range changes {
		numbers[c.Kind][c.Change]++
	}
	return numbers
}

// statTable returns the numbers of changes as a table.
func statTable(changes []change) table {
	numbers := statOf(changes)
	t := table{header: []string{"KIND", "ADDED", "REMOVED", "MOVED"}}
	for _, kind := range []string{"tag", "manifest", "signature"} {
		n := numbers[kind]
		t.add(kind, fmt.Sprint(n[added]), fmt.Sprint(n[removed]), fmt.Sprint(n[moved]))
	}
	return t
}
