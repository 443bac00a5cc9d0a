package signing_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/signing"
)

const hex64 = "7fbe918c3928bd80381de7c89b41da7ba4811e89a1f877aec1f49f0aaac8cbc2"

// goodClaim is a claim of skopeo.
const goodClaim = `{"critical":{"identity":{"docker-reference":"localhost:24817/acme/app:v1"},"image":{"docker-manifest-digest":"sha256:` + hex64 +
	`"},"type":"atomic container signature"},"optional":{"creator":"atomic 5.23.1","timestamp":1795384279}}`

func TestParseClaim(t *testing.T) {
	t.Parallel()
	got, err := signing.ParseClaim([]byte(goodClaim))
	want := signing.Claim{
		ManifestDigest: "sha256:" + hex64, DockerReference: "localhost:24817/acme/app:v1",
		Creator: "atomic 5.23.1", Timestamp: time.Unix(1795384279, 0).UTC(),
	}
	if err != nil || got != want {
		t.Errorf("ParseClaim = %+v, %v, want %+v", got, err, want)
	}
	again, err := signing.EncodeClaim(want)
	if err != nil {
		t.Fatal(err)
	}
	if back, err := signing.ParseClaim(again); err != nil || back != want {
		t.Errorf("round trip = %+v, %v", back, err)
	}
}

// TestParseClaimIsStrict parses claims that other parsers might read differently
// (hostile-inputs.md#duplicate-payload-keys, hostile-inputs.md#payload-shape).
func TestParseClaimIsStrict(t *testing.T) {
	t.Parallel()
	replace := func(old, with string) string {
		if !strings.Contains(goodClaim, old) {
			t.Fatalf("no %q in the good claim", old)
		}
		return strings.Replace(goodClaim, old, with, 1)
	}
	optional := `"optional":{"creator":"atomic 5.23.1","timestamp":1795384279}`
	tests := map[string]struct {
		give string
		good bool
	}{
		"as it is":                       {give: goodClaim, good: true},
		"with white space":               {give: " " + goodClaim + "\n", good: true},
		"another member in optional":     {give: replace(`"optional":{`, `"optional":{"x":{"y":[1]},`), good: true},
		"an empty optional":              {give: replace(optional, `"optional":{}`), good: true},
		"a sha512":                       {give: replace("sha256:"+hex64, "sha512:"+hex64+hex64), good: true},
		"a reference without a tag":      {give: replace("acme/app:v1", "acme/app"), good: true},
		"no optional":                    {give: replace(","+optional, "")},
		"optional that is null":          {give: replace(optional, `"optional":null`)},
		"optional that is a list":        {give: replace(optional, `"optional":[]`)},
		"another member at the top":      {give: replace(`{"critical"`, `{"x":1,"critical"`)},
		"another member in critical":     {give: replace(`"critical":{`, `"critical":{"x":1,`)},
		"another member in image":        {give: replace(`"image":{`, `"image":{"x":1,`)},
		"another member in identity":     {give: replace(`"identity":{`, `"identity":{"x":1,`)},
		"critical twice":                 {give: replace(`{"critical"`, `{"critical":{},"critical"`)},
		"the digest twice":               {give: replace(`"image":{`, `"image":{"docker-manifest-digest":"sha256:`+hex64+`",`)},
		"the digest twice, once escaped": {give: replace(`"image":{`, `"image":{"docker\u002dmanifest-digest":"sha256:`+hex64+`",`)},
		"a key twice in optional":        {give: replace(`"optional":{`, `"optional":{"creator":"x",`)},
		"another type":                   {give: replace("atomic container", "cosign container")},
		"Type instead of type":           {give: replace(`"type"`, `"Type"`)},
		"a digest in upper case":         {give: replace(hex64, strings.ToUpper(hex64))},
		"a short digest":                 {give: replace(hex64, hex64[1:])},
		"a sha1":                         {give: replace("sha256:"+hex64, "sha1:"+hex64[:40])},
		"a digest that is a number":      {give: replace(`"sha256:`+hex64+`"`, "1")},
		"an empty reference":             {give: replace("localhost:24817/acme/app:v1", "")},
		"a reference with a line break":  {give: replace("acme/app:v1", `acme/app:v1\n`)},
		"a creator with a NUL":           {give: replace("atomic 5.23.1", `a\u0000b`)},
		"a creator with an escape":       {give: replace("atomic 5.23.1", `\u001b[31m`)},
		"a creator of 2 KiB":             {give: replace("atomic 5.23.1", strings.Repeat("x", 2<<10))},
		"a creator that is a number":     {give: replace(`"atomic 5.23.1"`, "5")},
		"a timestamp that is a text":     {give: replace("1795384279", `"1795384279"`)},
		"a timestamp before the epoch":   {give: replace("1795384279", "-1")},
		"a timestamp out of range":       {give: replace("1795384279", "1e300")},
		"an object after it":             {give: goodClaim + "{}"},
		"a part of it":                   {give: goodClaim[:len(goodClaim)-2]},
		"nothing":                        {give: ""},
		"null":                           {give: "null"},
		"a list":                         {give: "[" + goodClaim + "]"},
		"not UTF-8":                      {give: replace("atomic 5", "atomic \xff")},
		"a byte order mark":              {give: "\ufeff" + goodClaim},
		"deep nesting":                   {give: replace(`"optional":{`, `"optional":{"x":`+strings.Repeat("[", 10_000)+strings.Repeat("]", 10_000)+`,`)},
		"a claim over the size limit":    {give: replace(`"optional":{`, `"optional":{"x":"`+strings.Repeat("x", 65<<10)+`",`)},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := signing.ParseClaim([]byte(tt.give))
			if tt.good && err != nil || !tt.good && !fault.Is(err, fault.Invalid) {
				t.Errorf("ParseClaim = %v, want good: %v", err, tt.good)
			}
		})
	}
}

func TestEncodeClaimRejectsInvalidClaims(t *testing.T) {
	t.Parallel()
	for _, c := range []signing.Claim{
		{}, {ManifestDigest: "sha256:1", DockerReference: "a/b:c"}, {ManifestDigest: digest.FromString("x"), DockerReference: "a b"},
	} {
		if b, err := signing.EncodeClaim(c); err == nil {
			t.Errorf("EncodeClaim(%+v) = %s", c, b)
		}
	}
}

func TestName(t *testing.T) {
	t.Parallel()
	got := signing.Name("sha256:"+hex64, []byte("hello"))
	if diff := cmp.Diff("sha256:"+hex64+"@2cf24dba5fb0a30e26e83b2ac5b9e29e", got); diff != "" {
		t.Errorf("Name (-want +got):\n%s", diff)
	}
}

func FuzzParseClaim(f *testing.F) {
	f.Add([]byte(goodClaim))
	f.Add([]byte(`{"critical":{},"optional":{}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := signing.ParseClaim(b)
		if err != nil {
			return
		}
		again, err := signing.EncodeClaim(c)
		if err != nil {
			t.Fatalf("EncodeClaim of %q parsed as %+v = %v", b, c, err)
		}
		back, err := signing.ParseClaim(again)
		if err != nil || back != c && (c.Timestamp.Unix() != 0 || !back.Timestamp.IsZero()) {
			t.Errorf("%q -> %+v -> %q -> %+v, %v", b, c, again, back, err)
		}
	})
}
