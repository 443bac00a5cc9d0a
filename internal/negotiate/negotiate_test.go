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
		"no header":                              {nil, true},
		"an empty header":                        {[]string{""}, true},
		"items without a range":                  {[]string{" , ;q=1", ";q=0"}, true},
		"the type":                               {[]string{image}, true},
		"another type":                           {[]string{"application/json"}, false},
		"letter case":                            {[]string{"Application/VND.oci.image.manifest.v1+JSON"}, true},
		"a quality":                              {[]string{image + ";q=0.001"}, true},
		"quality 0":                              {[]string{image + ";q=0"}, false},
		"quality 0.000 with spaces":              {[]string{image + " ; Q = 0.000"}, false},
		"a quality that is no number":            {[]string{image + ";q=high"}, true},
		"other parameters":                       {[]string{image + `;charset=utf-8;q=1;level="1"`}, true},
		"a range of its kind":                    {[]string{"application/*"}, true},
		"a range of its kind with quality 0":     {[]string{"application/*;q=0"}, false},
		"a range of another kind":                {[]string{"text/*"}, false},
		"everything":                             {[]string{"*/*"}, true},
		"everything with quality 0":              {[]string{"*/*;q=0"}, false},
		"everything but the type":                {[]string{"*/*, " + image + ";q=0"}, false},
		"everything but the type, other order":   {[]string{image + ";q=0, */*"}, false},
		"everything but its kind":                {[]string{"application/*;q=0, */*;q=0.1"}, false},
		"the type and nothing else of its kind":  {[]string{"application/*;q=0, " + image}, true},
		"the type twice, once with quality 0":    {[]string{image + ";q=0, " + image + ";q=0.5"}, true},
		"several headers":                        {[]string{"application/json", "text/html, " + image}, true},
		"several headers, refused in the second": {[]string{"*/*", image + ";q=0"}, false},
		"a prefix of the type":                   {[]string{"application/vnd.oci.image.manifest.v1"}, false},
	}
	for name, tt := range tests {
		if got := negotiate.Accepts(tt.headers, image); got != tt.want {
			t.Errorf("%s: Accepts(%q) = %t, want %t", name, tt.headers, got, tt.want)
		}
	}
}
