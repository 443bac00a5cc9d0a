package api

import (
	"context"
	"maps"

	"github.com/countersign/countersign/api/internal/body"
	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/tasks"
)

// pullThroughRemote is the form of a pull-through remote (compatibility.md#pull-through).
type pullThroughRemote struct {
	baseRemote
	Includes   []string `json:"includes" openapi:"nullable"`
	Excludes   []string `json:"excludes" openapi:"nullable"`
	Sigstore   *string  `json:"sigstore,omitempty"`    // a field of our own, as is TokenHosts
	TokenHosts []string `json:"token_hosts,omitempty"` //
}

func showPullThroughRemote(r pulp.Remote) any {
	return pullThroughRemote{showBaseRemote(r), r.Includes, r.Excludes, r.Sigstore, r.Connection.TokenHosts}
}

func (a *API) pullThroughRemotes() resource[pulp.Remote] {
	return resource[pulp.Remote]{
		model: "ContainerPullThroughRemote", form: pullThroughRemote{}, list: list.PullThroughRemoteList, show: showEach(showPullThroughRemote), within: a.visible,
		orderings: remoteOrderings, filters: remoteFilters(),
		object: func(r pulp.Remote) (access.Object, string) { return access.OfRemote(r), r.ID },
	}
}

func (a *API) pullThroughRemoteRoutes() []route {
	return a.remoteRoutesOf(remoteKind{
		resource: a.pullThroughRemotes, href: "container_container_pull_through_remote_href",
		form: pullThroughRemoteFields, read: readPullThroughRemote,
		create: func(ctx context.Context, r pulp.Remote, owner int64) (pulp.Remote, error) {
			return a.Store.Catalog.CreatePullThroughRemote(ctx, r, owner)
		},
		none: pulp.Remote{PullThrough: true, Policy: pulp.OnDemand, Connection: pulp.Connection{TLSValidation: true}},
	})
}

// pullThroughRemoteFields are the fields of the bodies of pull-through remotes.
var pullThroughRemoteFields = func() body.Form {
	f := maps.Clone(remoteFields)
	for _, name := range []string{"upstream_name", "include_tags", "exclude_tags"} {
		delete(f, name)
	}
	f["policy"] = body.Text.OneOf(string(pulp.OnDemand))
	return f
}()

// maxNamePattern is the length limit of a pattern of names in bytes.
const maxNamePattern = 255

// readPullThroughRemote reads and checks the fields of a pull-through remote, as remoteKind.read does.
func readPullThroughRemote(b *body.Fields, old pulp.Remote, whole bool) tasks.RemoteFields {
	f := readBaseRemote(b, whole)
	f.Policy = readSyncPolicy(b, pulp.OnDemand)
	for name, patterns := range map[string]*[]string{"includes": f.Includes.Value, "excludes": f.Excludes.Value} {
		if patterns == nil || !b.Valid(name) {
			continue
		}
		for _, p := range *patterns {
			if len(p) > maxNamePattern {
				b.Fail(name, "Ensure this field has no more than %d characters.", maxNamePattern)
				break
			}
		}
	}
	checkKeyPair(b, old, f)
	return f
}
