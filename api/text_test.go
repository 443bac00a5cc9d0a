package api_test

import (
	"net/http"
	"testing"

	"github.com/countersign/countersign/internal/pulp"
)

// TestInvalidCharacters proves that null characters and texts that are not UTF-8 are refused, in the same way on
// SQLite and PostgreSQL.
func TestInvalidCharacters(t *testing.T) {
	t.Parallel()
	m := newMirrors(t)
	full, empty, service := href(m.full), href(m.empty), m.serviceHref()
	const (
		null = `"Null characters are not allowed."`
		post = http.MethodPost
		form = "application/x-www-form-urlencoded"
	)
	notForm := `{"detail":"Form parse error - the form is malformed."}`
	remote := `"name":"acme/z","url":"https://h.example","upstream_name":"x"`
	for name, c := range map[string]struct {
		call call
		want string
	}{
		"a name": {
			call: call{method: post, path: pulp.ContainerCollection, json: `{"name":"a\u0000"}`},
			want: `{"name":[` + null + `]}`,
		},
		"a label": {
			call: call{method: post, path: pulp.ContainerCollection, json: `{"name":"acme/z","pulp_labels":{"a":"\u0000"}}`},
			want: `{"pulp_labels":[` + null + `]}`,
		},
		"a label that is set alone": {
			call: call{method: post, path: full + "set_label/", json: `{"key":"a","value":"\u0000"}`},
			want: `{"value":[` + null + `]}`,
		},
		"a pattern": {
			call: call{method: post, path: pulp.RemoteCollection, json: `{` + remote + `,"includes":["\u0000"]}`},
			want: `{"includes":[` + null + `]}`,
		},
		"a pattern, by its older name": {
			call: call{method: post, path: pulp.RemoteCollection, json: `{` + remote + `,"exclude_tags":["\u0000"]}`},
			want: `{"exclude_tags":[` + null + `]}`,
		},
		"a password": {
			call: call{method: post, path: pulp.RemoteCollection, json: `{` + remote + `,"password":"\u0000"}`},
			want: `{"password":[` + null + `]}`,
		},
		"a header": {
			call: call{method: post, path: pulp.RemoteCollection, json: `{` + remote + `,"headers":[{"a":"\u0000"}]}`},
			want: `{"headers":["Not a valid string."]}`,
		},
		"names of tags": {
			call: call{
				method: post, path: empty + "copy_tags/", json: `{"source_repository":"` + full + `","names":["\u0000"]}`,
			},
			want: `{"names":[` + null + `]}`,
		},
		"digests": {
			call: call{
				method: post, path: empty + "copy_manifests/", json: `{"source_repository":"` + full + `","digests":["\u0000"]}`,
			},
			want: `{"digests":[` + null + `]}`,
		},
		"tags to sign": {
			call: call{
				method: post, path: m.repoHref() + "sign/",
				json: `{"manifest_signing_service":"` + service + `","tags_list":["\u0000"]}`,
			},
			want: `{"tags_list":[` + null + `]}`,
		},
		"a tag": {
			call: call{method: post, path: full + "untag/", json: `{"tag":"\u0000"}`}, want: `{"tag":[` + null + `]}`,
		},
		"a unit": {
			call: call{method: post, path: full + "add/", json: `{"content_units":["\u0000"]}`},
			want: `{"content_units":[` + null + `]}`,
		},
		"a form": {
			call: call{method: post, path: pulp.ContainerCollection, json: "name=a%00", kind: form},
			want: `{"name":[` + null + `]}`,
		},
		"a form, not UTF-8": {
			call: call{method: post, path: pulp.ContainerCollection, json: "name=a%ff", kind: form}, want: notForm,
		},
		"a field, not UTF-8": {
			call: call{method: post, path: pulp.ContainerCollection, json: "name=a&%ff=b", kind: form}, want: notForm,
		},
		"multipart, not UTF-8": {
			call: call{
				method: post, path: pulp.ContainerCollection,
				json: "--x\r\nContent-Disposition: form-data; name=\"name\"\r\n\r\n\xff\r\n--x--\r\n",
				kind: "multipart/form-data; boundary=x",
			},
			want: `{"detail":"Multipart form parse error - the form is malformed."}`,
		},
		"a filter":            {call: call{path: "repositories/?name=%00"}, want: `{"name":[` + null + `]}`},
		"a filter, several":   {call: call{path: "tasks/?name__in=a,%00"}, want: `{"name__in":[` + null + `]}`},
		"a filter, a pattern": {call: call{path: "repositories/?name__regex=%00"}, want: `{"name__regex":[` + null + `]}`},
		"a filter, labels": {
			call: call{path: pulp.RemoteCollection + "?pulp_label_select=a%3D%00"}, want: `{"pulp_label_select":[` + null + `]}`,
		},
		"a filter, complex": {call: call{path: "distributions/?q=name%3D%22%00%22"}, want: `{"q":[` + null + `]}`},
	} {
		t.Run(name, func(t *testing.T) { m.expect(c.call, 400, c.want) })
	}
	for _, filter := range []string{
		"name=%ff", "name__in=%ff,a", "name__contains=%ff", "name__regex=%ff", "pulp_label_select=a%3D%ff",
		"q=name%3D%22%ff%22",
	} {
		m.expect(call{path: "repositories/?" + filter}, 200, `{"count":0,"next":null,"previous":null,"results":[]}`)
	}
}
