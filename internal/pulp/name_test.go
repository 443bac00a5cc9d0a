package pulp

import (
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

func TestPinTags(t *testing.T) {
	t.Parallel()
	for _, a := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		if tag := PinTag(a.FromString("x")); !ValidTag(tag) || !IsPinTag(tag) {
			t.Errorf("%s is not a valid pin tag", tag)
		}
	}
	if IsPinTag("countersign-keep") || IsPinTag("v1") {
		t.Error("IsPinTag accepts tags of users")
	}
}

func TestUpstreamName(t *testing.T) {
	t.Parallel()
	const id = "01a20931-a351-7dfc-833f-fd92103ca6f1"
	for name, want := range map[string]string{"acme/app": "acme/app", "app": "app", "My images": "countersign/" + id, "UPPER": "countersign/" + id, "a//b": "countersign/" + id} {
		if got := (Repository{ID: id, Name: name}).UpstreamName(); got != want || !ValidName(got) {
			t.Errorf("UpstreamName of %q = %q, want %q", name, got, want)
		}
	}
}

func TestPrintable(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"v1.0":                     "v1.0",
		"a b":                      "a b",
		"line\nbreak\x00":          `"line\nbreak\x00"`,
		"ü":                        `"\u00fc"`,
		`quote"d`:                  `"quote\"d"`,
		"\xff":                     `"\xff"`,
		strings.Repeat("x", 1000):  strings.Repeat("x", 255),
		strings.Repeat("\n", 1000): `"` + strings.Repeat(`\n`, 255) + `"`,
	} {
		if got := Printable(name); got != want {
			t.Errorf("Printable(%.20q) = %s, want %s", name, got, want)
		}
	}
}
