package negotiate_test

import (
	"testing"

	"github.com/countersign/countersign/internal/negotiate"
)

// TestAccepts proves the rules of RFC 9110 for media ranges: precedence, quality 0, wildcards, repeated and empty
// headers.
func TestAccepts(t *testing.T) {
	t.Parallel()
	const image = "application/vnd.oci.image.manifest.v1+json"
	tests := map[string]struct {
		headers []string
		want    bool
	}{
		"no header":                              {want: true},
		"an empty header":                        {headers: []string{""}, want: true},
		"items without a range":                  {headers: []string{" , ;q=1", ";q=0"}, want: true},
		"the type":                               {headers: []string{image}, want: true},
		"another type":                           {headers: []string{"application/json"}},
		"letter case":                            {headers: []string{"Application/VND.oci.image.manifest.v1+JSON"}, want: true},
		"a quality":                              {headers: []string{image + ";q=0.001"}, want: true},
		"quality 0":                              {headers: []string{image + ";q=0"}},
		"quality 0.000 with spaces":              {headers: []string{image + " ; Q = 0.000"}},
		"a quality that is not a number":         {headers: []string{image + ";q=high"}, want: true},
		"other parameters":                       {headers: []string{image + `;charset=utf-8;q=1;level="1"`}, want: true},
		"a range of its kind":                    {headers: []string{"application/*"}, want: true},
		"a range of its kind with quality 0":     {headers: []string{"application/*;q=0"}},
		"a range of another kind":                {headers: []string{"text/*"}},
		"everything":                             {headers: []string{"*/*"}, want: true},
		"everything with quality 0":              {headers: []string{"*/*;q=0"}},
		"everything but the type":                {headers: []string{"*/*, " + image + ";q=0"}},
		"everything but the type, other order":   {headers: []string{image + ";q=0, */*"}},
		"everything but its kind":                {headers: []string{"application/*;q=0, */*;q=0.1"}},
		"the type and nothing else of its kind":  {headers: []string{"application/*;q=0, " + image}, want: true},
		"the type twice, once with quality 0":    {headers: []string{image + ";q=0, " + image + ";q=0.5"}, want: true},
		"several headers":                        {headers: []string{"application/json", "text/html, " + image}, want: true},
		"several headers, refused in the second": {headers: []string{"*/*", image + ";q=0"}},
		"a prefix of the type":                   {headers: []string{"application/vnd.oci.image.manifest.v1"}},
	}
	for name, tt := range tests {
		if got := negotiate.Accepts(tt.headers, image); got != tt.want {
			t.Errorf("%s: Accepts(%q) = %t, want %t", name, tt.headers, got, tt.want)
		}
	}
}
