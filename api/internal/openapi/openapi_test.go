package openapi_test

import (
	"encoding/json"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/countersign/countersign/api/internal/openapi"
)

type common struct {
	Name    string `json:"name"`
	Created string `json:"created"`
}

type shown struct {
	common
	Created []string          `json:"created_resources"` // hides the Go field of common, not the member
	Parent  *shown            `json:"parent"`
	Labels  map[string]*int64 `json:"labels,omitempty"`
	Hosts   []string          `json:"hosts" openapi:"nullable"`
	Raw     json.RawMessage   `json:"raw"`
	hidden  bool
}

// TestSchemasOfTypes compares the component of a struct with the members that encoding/json writes.
func TestSchemasOfTypes(t *testing.T) {
	t.Parallel()
	_ = shown{hidden: true}
	for name, c := range map[string]struct {
		set  func(*openapi.Schemas)
		want string
	}{
		"a part of it must be there": {
			set: func(*openapi.Schemas) {},
			want: `{"type":"object","properties":{"created":{"type":"string"},"created_resources":{"type":"array",` +
				`"items":{"type":"string"}},"hosts":{"type":["array","null"],"items":{"type":"string"}},` +
				`"labels":{"type":"object","additionalProperties":{"type":["integer","null"]}},"name":{"type":"string"},` +
				`"parent":{"anyOf":[{"$ref":"#/components/schemas/Shown"},{"type":"null"}]},"raw":{}},` +
				`"required":["created","created_resources","hosts","name","parent","raw"]}`,
		},
		"all members may be absent": {
			set: func(s *openapi.Schemas) { s.Partial(shown{}) },
			want: `{"type":"object","properties":{"created":{"type":"string"},"created_resources":{"type":"array",` +
				`"items":{"type":"string"}},"hosts":{"type":["array","null"],"items":{"type":"string"}},` +
				`"labels":{"type":"object","additionalProperties":{"type":["integer","null"]}},"name":{"type":"string"},` +
				`"parent":{"anyOf":[{"$ref":"#/components/schemas/Shown"},{"type":"null"}]},"raw":{}}}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openapi.NewSchemas()
			c.set(s)
			if ref := s.Of(shown{}); ref.Ref != "#/components/schemas/Shown" {
				t.Errorf("reference %v", ref)
			}
			got, err := json.Marshal(s.Named["Shown"])
			if err != nil || string(got) != c.want {
				t.Errorf("%s\nwant %s\nerror %v", got, c.want, err)
			}
		})
	}
}

// TestYAML proves that the YAML form has the values of the JSON form, and texts that look like other values stay texts.
func TestYAML(t *testing.T) {
	t.Parallel()
	const text = `{"a":"true","b":"1","c":["x: y",""],"d":{"e":null,"f":"line\nline"}}`
	y, err := openapi.YAML([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := yaml.Unmarshal(y, &v); err != nil {
		t.Fatal(err)
	}
	if again, err := json.Marshal(v); err != nil || string(again) != text {
		t.Errorf("%s from %s, error %v", again, y, err)
	}
}
