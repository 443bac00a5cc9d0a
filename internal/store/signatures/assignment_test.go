package signatures_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/signatures"
	"github.com/countersign/countersign/internal/store/storetest"
)

// TestRevokingSigningAssignments proves that assignments which no administrator made are revoked together, that named ones are
// revoked in any case, and that a name without an assignment changes nothing.
func TestRevokingSigningAssignments(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	v := storetest.AddService(t, s, "release")
	all := map[string]pulp.Assigner{"a/admin": pulp.AssignedByAdmin, "a/earlier": pulp.AssignedEarlier, "a/older": "", "a/owner": pulp.AssignedByOwner, "a/second": pulp.AssignedByAdmin}
	for name, by := range all {
		storetest.Assign(t, s, storetest.Target(t, s, name).Repository, v.ID, by, name == "a/owner")
	}
	storetest.Target(t, s, "a/none")
	names := func(all []signatures.SigningAssignment) (names []string) {
		for _, a := range all {
			names = append(names, a.Repository)
		}
		return names
	}
	list, err := s.Signatures.SigningAssignments(t.Context())
	if err != nil || !slices.Equal(names(list), []string{"a/admin", "a/earlier", "a/older", "a/owner", "a/second"}) {
		t.Fatalf("SigningAssignments = %v, %v", list, err)
	}
	for _, a := range list {
		if a.By != all[a.Repository] || a.Service != "release" || a.SignOnPush != (a.Repository == "a/owner") {
			t.Errorf("listed %+v", a)
		}
	}
	for _, wrong := range []string{"a/none", "a/absent"} {
		_, err := s.Signatures.RevokeSigningAssignments(t.Context(), []string{"a/admin", wrong})
		if !fault.Is(err, fault.NotFound) || !strings.Contains(err.Error(), wrong) || strings.Contains(err.Error(), "a/admin") {
			t.Errorf("revoking %s: %v", wrong, err)
		}
	}
	if after, err := s.Signatures.SigningAssignments(t.Context()); err != nil || len(after) != len(list) {
		t.Errorf("after that: %v, %v", after, err)
	}
	if revoked, err := s.Signatures.RevokeSigningAssignments(t.Context(), []string{"a/admin"}); err != nil || !slices.Equal(names(revoked), []string{"a/admin"}) {
		t.Errorf("by name: %v, %v", revoked, err)
	}
	if revoked, err := s.Signatures.RevokeSigningAssignments(t.Context(), nil); err != nil || !slices.Equal(names(revoked), []string{"a/earlier", "a/older", "a/owner"}) {
		t.Errorf("all: %v, %v", revoked, err)
	}
	for name := range all {
		r, err := s.Catalog.RepositoryByName(t.Context(), name)
		if stays := name == "a/second"; err != nil || (r.SigningServiceID != "") != stays || (r.SigningAssigned != "") != stays {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	if err := s.Signatures.RemoveSigningService(t.Context(), "release", pulp.ManifestSigningService); err != nil {
		t.Fatal(err)
	}
	if r, err := s.Catalog.RepositoryByName(t.Context(), "a/second"); err != nil || r.SigningServiceID != "" || r.SigningAssigned != "" {
		t.Errorf("without the service: %+v, %v", r, err)
	}
}

// TestSigningOnPushNeedsAnAssignment proves that a repository which signs on push accepts no tags while its service was assigned by
// an account that may not assign it.
func TestSigningOnPushNeedsAnAssignment(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		by       pulp.Assigner
		use      pulp.SigningUse
		refused  bool
		noOwnKey bool // the repository has no service of its own
	}{
		"an administrator's":                   {by: pulp.AssignedByAdmin},
		"an old one":                           {by: pulp.AssignedEarlier},
		"an owner's":                           {by: pulp.AssignedByOwner, refused: true},
		"an older process's":                   {by: "", refused: true},
		"an owner's, who may":                  {by: pulp.AssignedByOwner, use: pulp.SigningUse{ByOwners: true}},
		"an owner's, and the configuration's":  {by: pulp.AssignedByOwner, use: pulp.SigningUse{Assigned: func(string) []string { return []string{"release"} }}},
		"the configuration's alone":            {noOwnKey: true, use: pulp.SigningUse{Assigned: func(string) []string { return []string{"release"} }}},
		"none":                                 {noOwnKey: true, refused: true},
		"one that the configuration misspells": {noOwnKey: true, refused: true, use: pulp.SigningUse{Assigned: func(string) []string { return []string{"relaese"} }}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := storetest.Open(t)
			v := storetest.AddService(t, s, "release")
			s.Signatures.SetPushPolicy(signatures.PushPolicy{Host: "registry.example", Use: c.use})
			r := storetest.Target(t, s, "acme/app").Repository
			id := v.ID
			if c.noOwnKey {
				id = ""
			}
			storetest.Assign(t, s, r, id, c.by, true)
			config, layer := storetest.PushBlob(t, s, r.ID, "config"), storetest.PushBlob(t, s, r.ID, "layer")
			_, err := s.Content.PutManifest(t.Context(), content.PutManifest{RepositoryID: r.ID, Manifest: storetest.Image(config, layer), Tags: []string{"v1"}})
			missing, unsigned := errors.AsType[*content.MissingSignatures](err)
			if c.refused != fault.Is(err, fault.Unavailable) || unsigned == c.refused || unsigned && missing.Service.ID != v.ID {
				t.Errorf("PutManifest = %v; refused: want %t", err, c.refused)
			}
			tags, err := s.Serving.ServedTags(t.Context(), storetest.Target(t, s, "acme/app"), "", 10)
			if err != nil || len(tags) != 0 {
				t.Errorf("tags are shown: %v, %v", tags, err)
			}
		})
	}
}

// TestEarlierAssignmentsAreMarked migrates a database in which repositories have signing services. These assignments must be marked
// as older than the record of assigners.
func TestEarlierAssignmentsAreMarked(t *testing.T) {
	t.Parallel()
	s := storetest.OpenAt(t, 9)
	storetest.ExecAll(t, s, `INSERT INTO signing_service (id, name, class, kind, fingerprint, public_key, created, updated) VALUES ('s', 'release', 'c', 'script', '', '', 1, 1)`,
		`INSERT INTO repository (id, type, name, signing_service_id, created, updated) VALUES ('a', 'container', 'a/assigned', 's', 1, 1)`,
		`INSERT INTO repository (id, type, name, created, updated) VALUES ('b', 'container', 'a/none', 1, 1)`)
	if err := s.DB.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]pulp.Assigner{"a/assigned": pulp.AssignedEarlier, "a/none": ""} {
		if r, err := s.Catalog.RepositoryByName(t.Context(), name); err != nil || r.SigningAssigned != want {
			t.Errorf("%s is assigned by %q, %v, want %q", name, r.SigningAssigned, err, want)
		}
	}
}
