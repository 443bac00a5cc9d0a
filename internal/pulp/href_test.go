package pulp_test

import (
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/pulp"
)

const id = "01a2053c-0f11-7553-bfbb-807cca916423"

func TestParseRef(t *testing.T) {
	t.Parallel()
	for _, c := range []string{
		pulp.TaskCollection, pulp.WorkerCollection, pulp.SigningServiceCollection, pulp.PushCollection, pulp.ContainerCollection,
		pulp.DistributionCollection, pulp.NamespaceCollection, pulp.BlobCollection, pulp.ManifestCollection, pulp.TagCollection,
		pulp.SignatureCollection, pulp.GuardCollection, pulp.RoleCollection, pulp.AccessPolicyCollection,
	} {
		want := pulp.Ref{Collection: c, ID: id, Version: -1}
		for _, s := range []string{pulp.Href(c, id), pulp.PRN(c, id), pulp.Href(c, strings.ToUpper(id))} {
			if got, ok := pulp.ParseRef(s); !ok || got != want {
				t.Errorf("ParseRef(%s) = %+v, %v, want %+v", s, got, ok, want)
			}
		}
	}
	if got, ok := pulp.ParseRef(pulp.VersionHref(pulp.ContainerPush, id, 7)); !ok ||
		got != (pulp.Ref{Collection: pulp.PushCollection, ID: id, Version: 7}) {
		t.Errorf("a version's href: %+v, %v", got, ok)
	}
	if got, ok := pulp.ParseRef(pulp.VersionPRN(id)); !ok || got != (pulp.Ref{ID: id, Version: -1}) {
		t.Errorf("a version's PRN: %+v, %v", got, ok)
	}
	if got, ok := pulp.ParseRef(pulp.UserHref(1)); !ok ||
		got != (pulp.Ref{Collection: pulp.UserCollection, ID: "1", Version: -1}) {
		t.Errorf("a user's href: %+v, %v", got, ok)
	}
	if got, ok := pulp.ParseRef(pulp.GroupHref(7)); !ok || got != (pulp.Ref{Collection: pulp.GroupCollection, ID: "7", Version: -1}) {
		t.Errorf("a group's href: %+v, %v", got, ok)
	}
	for _, s := range []string{
		"/pulp/api/v3/users/1/roles/" + id + "/", "/pulp/api/v3/groups/" + id + "/", "/pulp/api/v3/roles/1/",
		"", "abc", "prn:", "prn:core.task", "prn:core.task:abc", "prn:unknown.model:" + id, "/pulp/api/v3/tasks/", "/pulp/api/v3/tasks/abc/",
		"/pulp/api/v3/tasks/" + id, "/pulp/api/v3/tasks/" + id + "/x/", "/pulp/api/v3/tasks/" + id + "/versions/1/", "/pulp/api/v3/users/0/", "/pulp/api/v3/users/x/",
		"http://x/pulp/api/v3/tasks/" + id + "/", pulp.RepositoryHref(pulp.ContainerPush, id) + "versions/-1/",
		pulp.RepositoryHref(pulp.ContainerPush, id) + "versions/01/", pulp.RepositoryHref(pulp.ContainerPush, id) + "versions/1",
		pulp.RepositoryHref(pulp.ContainerPush, id) + "versions/99999999999999999999/",
	} {
		if got, ok := pulp.ParseRef(s); ok {
			t.Errorf("ParseRef(%q) = %+v", s, got)
		}
	}
}

func FuzzParseRef(f *testing.F) {
	f.Add(pulp.Href(pulp.TaskCollection, id))
	f.Add(pulp.VersionHref(pulp.Container, id, 3))
	f.Add(pulp.PRN(pulp.TagCollection, id))
	f.Fuzz(func(t *testing.T, s string) {
		r, ok := pulp.ParseRef(s)
		if !ok || r.Collection == "" {
			return
		}
		again := pulp.Href(r.Collection, r.ID)
		if r.Version >= 0 {
			kind := pulp.Container
			if r.Collection == pulp.PushCollection {
				kind = pulp.ContainerPush
			}
			again = pulp.VersionHref(kind, r.ID, r.Version)
		}
		if back, ok := pulp.ParseRef(again); !ok || back != r {
			t.Errorf("%q -> %+v -> %q -> %+v, %v", s, r, again, back, ok)
		}
	})
}

// TestNames covers hostile-inputs.md#hostile-names and #hostile-tags.
func TestNames(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"app": true, "acme/app": true, "a/b/c/d": true, "a.b/c_d/e__f/g---h": true, "0/1": true, strings.Repeat("a", 255): true,
		"": false, "/app": false, "app/": false, "a//b": false, "App": false, "a..b": false, "a___b": false, "a._b": false, "-a": false, "a-": false,
		".": false, "..": false, "a/../b": false, "a:b": false, "a@b": false, "a b": false, "a\n": false, "ä": false, strings.Repeat("a", 256): false,
	} {
		if got := pulp.ValidName(name); got != want {
			t.Errorf("ValidName(%q) = %v", name, got)
		}
	}
	for tag, want := range map[string]bool{
		"latest": true, "v1.0": true, "_x": true, "A-b.C_d": true, strings.Repeat("a", 128): true, "sha256-" + strings.Repeat("a", 64) + ".sig": true,
		"": false, ".x": false, "-x": false, "a/b": false, "../x": false, "a:b": false, "a\n": false, "a b": false, strings.Repeat("a", 129): false,
	} {
		if got := pulp.ValidTag(tag); got != want {
			t.Errorf("ValidTag(%q) = %v", tag, got)
		}
	}
	for tag, want := range map[string]bool{
		"sha256-" + strings.Repeat("a", 64): true, "x.sig": true, "x.att": true, "x.sbom": true,
		"sha256-" + strings.Repeat("a", 63): false, "latest": false, "sig": false, "x.signed": false,
	} {
		if got := pulp.IsCompanionTag(tag); got != want {
			t.Errorf("IsCompanionTag(%q) = %v", tag, got)
		}
	}
	hex := strings.Repeat("a", 64)
	for tag, want := range map[string]bool{
		"sha256-" + hex[1:] + ".sig": true, "sha256-" + hex + "a.att": true, "sha256-" + strings.ToUpper(hex) + ".sbom": true, "sha256-.sig": true, "sha256-" + hex + ".x.sig": true,
		"sha256-" + hex + ".sig": false, "sha256-" + hex + ".att": false, "sha256-" + hex + ".sbom": false, "sha256-" + hex: false, "sha256-abc": false, "x.sig": false, "v1.sbom": false,
	} {
		if got := pulp.MalformedCompanionTag(tag); got != want {
			t.Errorf("MalformedCompanionTag(%q) = %v", tag, got)
		}
	}
	for tag, want := range map[string]bool{
		"latest": true, "_x": true, "sha256-" + hex + ".sig": true, "sha256-" + hex: true, "x.sig": true,
		"": false, "-x": false, strings.Repeat("a", 129): false, "sha256-abc.sig": false, "countersign-keep.x": false,
	} {
		if got := pulp.PushableTag(tag); got != want {
			t.Errorf("PushableTag(%q) = %v, want %v", tag, got, want)
		}
	}
	if pulp.NamespaceOf("a/b/c") != "a" || pulp.NamespaceOf("a") != "a" {
		t.Error("NamespaceOf")
	}
}

// FuzzNames compares the regular expressions of names and tags with a second implementation of their grammar. It covers
// hostile-inputs.md#hostile-names and #hostile-tags.
func FuzzNames(f *testing.F) {
	for _, s := range []string{
		"acme/app", "a/b/c", "a.b", "a__b", "a---b", "..", "a/../b", "a//b", "/a", "a/", "A/b", "a___b", "a._b", "\u0430cme/app", "a\n", "a\x00", "_catalog", "a/blobs/uploads", "%2e%2e", strings.Repeat("a", 256),
		"latest", ".x", "-x", "sha256-" + strings.Repeat("0", 64) + ".sig", strings.Repeat("x", 129), "a:b", "a@b",
	} {
		f.Add(s)
	}
	const small = "abcdefghijklmnopqrstuvwxyz0123456789"
	segment := func(s string) bool {
		for s != "" {
			rest := strings.TrimLeft(s, small)
			if len(rest) == len(s) {
				return false // it does not start with a letter or digit
			}
			if rest == "" {
				return true
			}
			word := strings.TrimLeft(rest, "._-")
			if between := rest[:len(rest)-len(word)]; between != "." && between != "_" && between != "__" &&
				strings.Trim(between, "-") != "" ||
				between == "" {
				return false
			}
			s = word
		}
		return false
	}
	f.Fuzz(func(t *testing.T, s string) {
		name := len(s) <= pulp.MaxNameLength
		for _, part := range strings.Split(s, "/") {
			name = name && segment(part)
		}
		if pulp.ValidName(s) != name {
			t.Errorf("ValidName(%q) = %v, want %v", s, !name, name)
		}
		tag := s != "" && len(s) <= 128 && s[0] != '.' && s[0] != '-' &&
			strings.Trim(s, small+strings.ToUpper(small)+"._-") == ""
		if pulp.ValidTag(s) != tag {
			t.Errorf("ValidTag(%q) = %v, want %v", s, !tag, tag)
		}
		if hex, ok := pulp.CompanionOf(s); ok && (len(hex) != 64 || !strings.HasPrefix(s, "sha256-"+hex)) ||
			pulp.MalformedCompanionTag(s) && ok {
			t.Errorf("CompanionOf(%q) = %q, %v", s, hex, ok)
		}
	})
}
