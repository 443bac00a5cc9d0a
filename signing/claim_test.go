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

// goodClaim is a claim as skopeo writes it.
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

// TestParseClaimIsStrict reads claims that others might read in another way. Hostile inputs 5 and 6.
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
		"as it is":                       {goodClaim, true},
		"with white space":               {" " + goodClaim + "\n", true},
		"more in optional":               {replace(`"optional":{`, `"optional":{"x":{"y":[1]},`), true},
		"nothing in optional":            {replace(optional, `"optional":{}`), true},
		"a sha512":                       {replace("sha256:"+hex64, "sha512:"+hex64+hex64), true},
		"a reference without a tag":      {replace("acme/app:v1", "acme/app"), true},
		"no optional":                    {replace(","+optional, ""), false},
		"optional that is null":          {replace(optional, `"optional":null`), false},
		"optional that is a list":        {replace(optional, `"optional":[]`), false},
		"more at the top":                {replace(`{"critical"`, `{"x":1,"critical"`), false},
		"more in critical":               {replace(`"critical":{`, `"critical":{"x":1,`), false},
		"more in image":                  {replace(`"image":{`, `"image":{"x":1,`), false},
		"more in identity":               {replace(`"identity":{`, `"identity":{"x":1,`), false},
		"critical twice":                 {replace(`{"critical"`, `{"critical":{},"critical"`), false},
		"the digest twice":               {replace(`"image":{`, `"image":{"docker-manifest-digest":"sha256:`+hex64+`",`), false},
		"the digest twice, once escaped": {replace(`"image":{`, `"image":{"docker\u002dmanifest-digest":"sha256:`+hex64+`",`), false},
		"a key twice in optional":        {replace(`"optional":{`, `"optional":{"creator":"x",`), false},
		"another type":                   {replace("atomic container", "cosign container"), false},
		"Type instead of type":           {replace(`"type"`, `"Type"`), false},
		"a digest in upper case":         {replace(hex64, strings.ToUpper(hex64)), false},
		"a short digest":                 {replace(hex64, hex64[1:]), false},
		"a sha1":                         {replace("sha256:"+hex64, "sha1:"+hex64[:40]), false},
		"a digest that is a number":      {replace(`"sha256:`+hex64+`"`, "1"), false},
		"an empty reference":             {replace("localhost:24817/acme/app:v1", ""), false},
		"a reference with a line break":  {replace("acme/app:v1", `acme/app:v1\n`), false},
		"a creator with a NUL":           {replace("atomic 5.23.1", `a\u0000b`), false},
		"a creator with an escape":       {replace("atomic 5.23.1", `\u001b[31m`), false},
		"a creator of 2 KiB":             {replace("atomic 5.23.1", strings.Repeat("x", 2<<10)), false},
		"a creator that is a number":     {replace(`"atomic 5.23.1"`, "5"), false},
		"a timestamp that is a text":     {replace("1795384279", `"1795384279"`), false},
		"a timestamp before the epoch":   {replace("1795384279", "-1"), false},
		"a timestamp that is no time":    {replace("1795384279", "1e300"), false},
		"something behind it":            {goodClaim + "{}", false},
		"half of it":                     {goodClaim[:len(goodClaim)-2], false},
		"nothing":                        {"", false},
		"null":                           {"null", false},
		"a list":                         {"[" + goodClaim + "]", false},
		"no UTF-8":                       {replace("atomic 5", "atomic \xff"), false},
		"a byte order mark":              {"\ufeff" + goodClaim, false},
		"deep nesting":                   {replace(`"optional":{`, `"optional":{"x":`+strings.Repeat("[", 10_000)+strings.Repeat("]", 10_000)+`,`), false},
		"more than it may have":          {replace(`"optional":{`, `"optional":{"x":"`+strings.Repeat("x", 65<<10)+`",`), false},
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

func TestEncodeClaimRefusesWhatItWouldNotRead(t *testing.T) {
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
			t.Fatalf("%q was read as %+v, which cannot be written: %v", b, c, err)
		}
		back, err := signing.ParseClaim(again)
		if err != nil || back != c && (c.Timestamp.Unix() != 0 || !back.Timestamp.IsZero()) {
			t.Errorf("%q -> %+v -> %q -> %+v, %v", b, c, again, back, err)
		}
	})
}
