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
		pulp.SignatureCollection, pulp.GuardCollection,
	} {
		want := pulp.Ref{Collection: c, ID: id, Version: -1}
		for _, s := range []string{pulp.Href(c, id), pulp.PRN(c, id), pulp.Href(c, strings.ToUpper(id))} {
			if got, ok := pulp.ParseRef(s); !ok || got != want {
				t.Errorf("ParseRef(%s) = %+v, %v, want %+v", s, got, ok, want)
			}
		}
	}
	if got, ok := pulp.ParseRef(pulp.VersionHref(pulp.ContainerPush, id, 7)); !ok || got != (pulp.Ref{Collection: pulp.PushCollection, ID: id, Version: 7}) {
		t.Errorf("a version's href: %+v, %v", got, ok)
	}
	if got, ok := pulp.ParseRef(pulp.VersionPRN(id)); !ok || got != (pulp.Ref{ID: id, Version: -1}) {
		t.Errorf("a version's PRN: %+v, %v", got, ok)
	}
	if got, ok := pulp.ParseRef(pulp.UserHref(1)); !ok || got != (pulp.Ref{Collection: pulp.UserCollection, ID: "1", Version: -1}) {
		t.Errorf("a user's href: %+v, %v", got, ok)
	}
	for _, s := range []string{
		"", "abc", "prn:", "prn:core.task", "prn:core.task:abc", "prn:nobody.knows:" + id, "/pulp/api/v3/tasks/", "/pulp/api/v3/tasks/abc/",
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
	if pulp.NamespaceOf("a/b/c") != "a" || pulp.NamespaceOf("a") != "a" {
		t.Error("NamespaceOf")
	}
}
