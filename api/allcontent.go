package api

import (
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/list"
)

// anyContent is the form of a unit in the list of content of all kinds. Artifacts has the href of a blob's artifact under
// the blob's digest; null while the bytes are absent.
type anyContent struct {
	contentObject
	Artifacts map[string]*string `json:"artifacts"`
}

// allContent is the content of all kinds.
func (a *API) allContent() resource[list.ListedContent] {
	types := make([]string, len(pulp.Kinds))
	for i, k := range pulp.Kinds {
		types[i] = k.String()
	}
	byType := choice(types, func(v []string) list.Filter { return list.OneOf("pulp_type", v) })
	return resource[list.ListedContent]{
		model: "Content", form: anyContent{}, list: list.ContentList, within: a.visible, show: a.showContent,
		filters: contentFilters(filters{"pulp_type": byType, "pulp_type__in": byType}),
	}
}

// showContent returns the JSON forms of units of any kind.
func (a *API) showContent(req *request, all []list.ListedContent) ([]any, error) {
	var blobs []string
	for _, c := range all {
		if c.Kind == pulp.KindBlob {
			blobs = append(blobs, c.ID)
		}
	}
	hrefs, err := a.artifactsOf(req, "artifacts", blobs)
	if err != nil {
		return nil, err
	}
	shown := make([]any, len(all))
	for i, c := range all {
		artifacts := map[string]*string{}
		if c.Kind == pulp.KindBlob {
			artifacts[c.Digest] = hrefs[c.ID]
		}
		shown[i] = anyContent{contentOf(c.Kind, c.ID, c.Labels, c.Stamps), artifacts}
	}
	return shown, nil
}

func (a *API) allContentRoutes() []route {
	return []route{{path: pulp.ContentCollection, methods: get(listOf(a, a.allContent()))}}
}
