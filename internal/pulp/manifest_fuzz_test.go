package pulp_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/pulp"
)

// looseDescriptor and looseManifest are the manifest as encoding/json in clients reads it: it ignores the case of names.
type looseDescriptor struct {
	MediaType, Digest string
	Size              int64
	Platform          *struct{ Architecture, OS string }
}

type looseManifest struct {
	SchemaVersion     int
	MediaType         string
	Config            *looseDescriptor
	Layers, Manifests []looseDescriptor
}

// FuzzParseManifest checks that every accepted manifest is either a list or an image and that a lenient parser reads the
// same from it. It covers hostile-inputs.md#ambiguous-json and #ambiguous-manifest.
func FuzzParseManifest(f *testing.F) {
	image := imageText(pulp.OCIManifest, descriptor(ociConfig, d1, ""), descriptor(ociLayer, d2, ""), "")
	f.Add([]byte(image), pulp.OCIManifest)
	f.Add(
		[]byte(
			indexText(
				pulp.DockerList,
				descriptor(pulp.DockerManifest, d1, `,"platform":{"architecture":"a","os":"b"}`),
				"",
			),
		),
		"",
	)
	for _, more := range []string{
		`,"Layers":[]`, `,"layers":[]`, `,"layer\u017f":[]`, `,"Manifests":[` + descriptor(pulp.OCIManifest, d1, "") + `]`, `,"manifests":[]`, `,"MediaType":"x"`, `,"x":1e400`, `,"x":"\u0000"`,
		`,"subject":` + descriptor(pulp.OCIManifest, d2, ""), `,"annotations":{"a":"b","A":"c"}`, `,"x":` + strings.Repeat("[", 63) + strings.Repeat("]", 63), `,"\ud800":1,"\udfff":2`,
	} {
		f.Add([]byte(strings.Replace(image, "}]}", "}]"+more+"}", 1)), pulp.OCIManifest)
	}
	f.Add([]byte("\ufeff"+image), "")
	f.Add([]byte(image+"\n"), pulp.OCIManifest+"; charset=utf-8")
	f.Add([]byte(strings.Replace(image, `"size":10`, `"size":1e1`, 1)), "application/json")
	f.Add([]byte(`{"schemaVersion":2,"config":`+descriptor(ociConfig, d1, `,"Size":11`)+`,"layers":[]}`), "")
	f.Fuzz(func(t *testing.T, b []byte, contentType string) {
		m, err := pulp.ParseManifest(b, contentType)
		if err != nil {
			return
		}
		if pulp.IsList(m.MediaType) == (m.Config != nil) || pulp.IsList(m.MediaType) == (m.ImageSize != nil) {
			t.Errorf("%q is a %s with the config %v", b, m.MediaType, m.Config)
		}
		var loose looseManifest
		if err := json.Unmarshal(b, &loose); err != nil {
			t.Fatalf("%q: %v", b, err)
		}
		if loose.SchemaVersion != 2 || loose.MediaType != "" && loose.MediaType != m.MediaType ||
			(loose.Config == nil) != (m.Config == nil) {
			t.Errorf("%q is a %s, and read loosely %+v", b, m.MediaType, loose)
		}
		strict, read := append(m.Layers, m.Children...), append(loose.Layers, loose.Manifests...)
		if m.Config != nil && loose.Config != nil {
			strict, read = append(strict, *m.Config), append(read, *loose.Config)
		}
		if len(strict) != len(read) {
			t.Fatalf("%q has %d parts, and read loosely %d", b, len(strict), len(read))
		}
		for i, d := range strict {
			if d.Digest.Validate() != nil || d.Size < 0 {
				t.Errorf("%q has the descriptor %+v", b, d)
			}
			if l := read[i]; l.Digest != string(d.Digest) || l.Size != d.Size || l.MediaType != d.MediaType ||
				l.Platform != nil && (l.Platform.Architecture != d.Architecture || l.Platform.OS != d.OS) {
				t.Errorf("%q has %+v, and read loosely %+v", b, d, l)
			}
		}
	})
}
