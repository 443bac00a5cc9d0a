package api_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/api"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/tasks"
)

// byOwners sets the option for signing.use: repository_owners.
func byOwners(o *api.Options) { o.SigningUse.ByOwners = true }

// configured sets the option that assigns a service to acme/app and acme/later.
func configured(service string) func(*api.Options) {
	return func(o *api.Options) {
		o.SigningUse.Assigned = func(repository string) []string {
			if repository == "acme/app" || repository == "acme/later" {
				return []string{service}
			}
			return nil
		}
	}
}

const (
	assignDenied = `{"detail":"Changing the manifest_signing_service of a repository needs a role on the signing service, such as core.signingservice_owner."}`
	useDenied    = `{"detail":"The repository may be signed only with a signing service that is assigned to it, or on which you have a role such as core.signingservice_user."}`
)

// TestAssigningSigningServices proves, for both types of repository, PUT and PATCH, which users may assign which
// signing service, and that the change records the assigner. An error does not reveal whether a service exists.
func TestAssigningSigningServices(t *testing.T) {
	t.Parallel()
	admin, owner, nobody, none := pulp.AssignedByAdmin, pulp.AssignedByOwner, pulp.Assigner(""), ""
	for _, rule := range []string{"assigned", "owners"} {
		t.Run(rule, func(t *testing.T) {
			t.Parallel()
			var set []func(*api.Options)
			if rule == "owners" {
				set = append(set, byOwners)
			}
			w := newWorld(t, set...)
			other := w.addService("other")
			mirror := w.container("acme/mirror", "")
			w.distribute("acme/mirror", mirror.ID)
			service := func(id string) string { return `"` + pulp.Href(pulp.SigningServiceCollection, id) + `"` }
			type change struct {
				service string
				by      pulp.Assigner
			}
			for name, c := range map[string]struct {
				user   string
				now    string        // the service that is assigned
				by     pulp.Assigner // of now
				value  string        // of the field; empty: the body lacks it
				owners *change       // the change where owners may assign services; nil: none, with status 200
				status int           // where owners may not; 0: the same as where they may
			}{
				"an owner names a service": {
					user: "acme", value: service(other.ID), owners: &change{other.ID, owner}, status: 403,
				},
				"an owner names another": {
					user: "acme", now: w.service.ID, by: admin, value: service(other.ID), owners: &change{other.ID, owner},
					status: 403,
				},
				"an owner names another by PRN": {
					user: "acme", now: w.service.ID, by: admin, value: `"prn:core.signingservice:` + other.ID + `"`,
					owners: &change{other.ID, owner}, status: 403,
				},
				"an owner removes it": {
					user: "acme", now: w.service.ID, by: admin, value: "null", owners: &change{none, nobody}, status: 403,
				},
				"an owner removes it with a blank": {
					user: "acme", now: w.service.ID, by: admin, value: `""`, owners: &change{none, nobody}, status: 403,
				},
				"an owner repeats it": {
					user: "acme", now: w.service.ID, by: admin, value: service(w.service.ID),
				},
				"an owner repeats it by URL": {
					user: "acme", now: w.service.ID, by: admin,
					value: `"http://localhost` + pulp.Href(pulp.SigningServiceCollection, w.service.ID) + `"`,
				},
				"an owner repeats null":            {user: "acme", value: "null"},
				"an owner omits it":                {user: "acme", now: w.service.ID, by: admin},
				"an administrator names a service": {value: service(other.ID), owners: &change{other.ID, admin}},
				"an administrator removes it": {
					now: w.service.ID, by: owner, value: "null", owners: &change{none, nobody},
				},
				"an administrator repeats their own": {now: w.service.ID, by: admin, value: service(w.service.ID)},
				"an administrator confirms an owner's": {
					now: w.service.ID, by: owner, value: service(w.service.ID), owners: &change{w.service.ID, admin},
				},
				"an administrator confirms an older assignment": {
					now: w.service.ID, by: pulp.AssignedEarlier, value: service(w.service.ID), owners: &change{w.service.ID, admin},
				},
				"another user, without the field": {user: "carol", status: 403},
				"another user, repeating the service": {
					user: "carol", now: w.service.ID, by: admin, value: service(w.service.ID), status: 403,
				},
			} {
				for _, repo := range []pulp.Repository{w.repo.Repository, mirror} {
					href := pulp.RepositoryHref(repo.Type, repo.ID)
					w.assign(repo, c.now, c.by)
					for _, method := range []string{http.MethodPut, http.MethodPatch} {
						body := `{"name":"` + repo.Name + `"}`
						if c.value != "" {
							body = `{"name":"` + repo.Name + `","manifest_signing_service":` + c.value + `}`
						}
						before := len(w.dispatcher.specs)
						switch {
						case c.status != 0 && (rule == "assigned" || c.user == "carol"):
							want := assignDenied
							if c.user == "carol" {
								want = ""
							}
							w.expect(call{method: method, path: href, user: c.user, json: body}, c.status, want)
						case c.owners == nil:
							w.expect(call{method: method, path: href, user: c.user, json: body}, 200, "")
						default:
							w.expect(call{method: method, path: href, user: c.user, json: body}, 202, "")
							fields := w.dispatcher.last().Args.(tasks.EditArgs).Repository
							want := tasks.RepositoryFields{
								Name: &repo.Name, SigningServiceID: &c.owners.service, SigningAssigned: &c.owners.by,
							}
							if diff := cmp.Diff(&want, fields); diff != "" {
								t.Errorf("%s: %s of %s (-want +got):\n%s", name, method, repo.Type, diff)
							}
							continue
						}
						if len(w.dispatcher.specs) != before {
							t.Errorf("%s: %s of %s started a task", name, method, repo.Type)
						}
					}
				}
			}
			if rule == "owners" {
				return
			}
			absent := `{"manifest_signing_service":` + service(pulp.NewID()) + `}`
			w.assign(mirror, w.service.ID, admin)
			w.expect(
				call{method: http.MethodPatch, path: pulp.RepositoryHref(mirror.Type, mirror.ID), user: "acme", json: absent}, 403,
				assignDenied,
			)
		})
	}
}

// TestNewRepositoriesGetSigningServicesFromAdministrators proves that an owner cannot create a repository with a
// signing service.
func TestNewRepositoriesGetSigningServicesFromAdministrators(t *testing.T) {
	t.Parallel()
	strict, loose := newWorld(t), newWorld(t, byOwners)
	create := func(w *world, user, name string, status int, by pulp.Assigner) {
		t.Helper()
		body := `{"name":"` + name + `","manifest_signing_service":"` + w.serviceHref() + `"}`
		w.expect(call{method: http.MethodPost, path: pulp.ContainerCollection, user: user, json: body}, status, "")
		r, err := w.store.Catalog.RepositoryByName(t.Context(), name)
		if status != 201 {
			if err == nil {
				t.Errorf("%s was created", name)
			}
			return
		}
		if err != nil || r.SigningServiceID != w.service.ID || r.SigningAssigned != by {
			t.Errorf("%s: assigned by %q, %v, want %q", name, r.SigningAssigned, err, by)
		}
	}
	create(strict, "acme", "acme/new", 403, "")
	create(strict, "admin", "acme/admins", 201, pulp.AssignedByAdmin)
	create(loose, "acme", "acme/new", 201, pulp.AssignedByOwner)
	strict.expect(
		call{
			method: http.MethodPost, path: pulp.ContainerCollection, user: "acme",
			json: `{"name":"acme/null","manifest_signing_service":null}`,
		},
		201, "",
	)
}

// TestUsingSigningServices proves which services a sign request may use: any for administrators; for owners the
// service that an administrator, any user before the upgrade, or the configuration assigned, and any with
// repository_owners.
func TestUsingSigningServices(t *testing.T) {
	t.Parallel()
	strict, loose, pattern := newWorld(t), newWorld(t, byOwners), newWorld(t, configured("other"))
	for name, c := range map[string]struct {
		world *world
		user  string
		by    pulp.Assigner // of the repository's own service; "none" without
		named string        // the service in the request; empty: none
		want  string        // the service of the task; empty: the request is refused
	}{
		"an owner, the administrator's": {
			world: strict, user: "acme", by: pulp.AssignedByAdmin, want: "ctr-svc",
		},
		"an owner, the administrator's by name": {
			world: strict, user: "acme", by: pulp.AssignedByAdmin, named: "ctr-svc", want: "ctr-svc",
		},
		"an owner, an older assignment": {
			world: strict, user: "acme", by: pulp.AssignedEarlier, want: "ctr-svc",
		},
		"an owner, their own": {world: strict, user: "acme", by: pulp.AssignedByOwner},
		"an owner, their own by name": {
			world: strict, user: "acme", by: pulp.AssignedByOwner, named: "ctr-svc",
		},
		"an owner, an assignment without an assigner": {world: strict, user: "acme", by: ""},
		"an owner, a service other than the administrator's": {
			world: strict, user: "acme", by: pulp.AssignedByAdmin, named: "other",
		},
		"an owner, an unknown service": {
			world: strict, user: "acme", by: pulp.AssignedByAdmin, named: "absent",
		},
		"an owner, unassigned": {world: strict, user: "acme", by: "none", named: "ctr-svc"},
		"an administrator, unassigned": {
			world: strict, user: "admin", by: "none", named: "other", want: "other",
		},
		"an administrator, an owner's": {
			world: strict, user: "admin", by: pulp.AssignedByOwner, want: "ctr-svc",
		},
		"another user, the administrator's": {world: strict, user: "carol", by: pulp.AssignedByAdmin},
		"an owner who may choose, another": {
			world: loose, user: "acme", by: pulp.AssignedByAdmin, named: "other", want: "other",
		},
		"an owner who may choose, their own": {
			world: loose, user: "acme", by: pulp.AssignedByOwner, want: "ctr-svc",
		},
		"an owner, the configured one": {world: pattern, user: "acme", by: "none", want: "other"},
		"an owner, the configured one by name": {
			world: pattern, user: "acme", by: pulp.AssignedByAdmin, named: "other", want: "other",
		},
		"an owner, the administrator's before that": {
			world: pattern, user: "acme", by: pulp.AssignedByAdmin, want: "ctr-svc",
		},
		"an owner, another than the configured one":     {world: pattern, user: "acme", by: "none", named: "ctr-svc"},
		"an owner, their own beside the configured one": {world: pattern, user: "acme", by: pulp.AssignedByOwner},
		"another user, the configured one":              {world: pattern, user: "carol", by: "none"},
	} {
		w := c.world
		ids := map[string]string{"ctr-svc": w.service.ID, "absent": pulp.NewID()}
		if v, err := w.store.Signatures.SigningServiceByName(t.Context(), "other"); err == nil {
			ids["other"] = v.ID
		} else {
			ids["other"] = w.addService("other").ID
		}
		if c.by == "none" {
			w.assign(w.repo.Repository, "", "")
		} else {
			w.assign(w.repo.Repository, w.service.ID, c.by)
		}
		body := `{}`
		if c.named != "" {
			body = `{"manifest_signing_service":"` + pulp.Href(pulp.SigningServiceCollection, ids[c.named]) + `"}`
		}
		before := len(w.dispatcher.specs)
		sign := call{method: http.MethodPost, path: w.repoHref() + "sign/", user: c.user, json: body}
		if c.want == "" {
			refusal := useDenied
			if c.user == "carol" {
				refusal = ""
			}
			w.expect(sign, 403, refusal)
			if len(w.dispatcher.specs) != before {
				t.Errorf("%s: a task was started", name)
			}
			continue
		}
		w.expect(sign, 202, "")
		if got := w.dispatcher.last().Args.(tasks.SignArgs).ServiceID; got != ids[c.want] {
			t.Errorf("%s: the task signs with %s, want %s (%s)", name, got, ids[c.want], c.want)
		}
	}
}

// TestSignOnPushNeedsAnAssignment proves that owners can enable sign_on_push only for a repository with an assigned
// service that they may use.
func TestSignOnPushNeedsAnAssignment(t *testing.T) {
	t.Parallel()
	const missing = `{"sign_on_push":["A repository that signs on push needs a manifest_signing_service."]}`
	const unassigned = `{"sign_on_push":["A repository that signs on push needs a manifest_signing_service that an administrator assigned to it."]}`
	w, pattern := newWorld(t), newWorld(t, configured("ctr-svc"))
	on := func(w *world, user string) call {
		return call{method: http.MethodPatch, path: w.repoHref(), user: user, json: `{"sign_on_push":true}`}
	}
	w.expect(on(w, "acme"), 400, missing)
	w.expect(on(w, "admin"), 400, missing)
	w.assign(w.repo.Repository, w.service.ID, pulp.AssignedByOwner)
	w.expect(on(w, "acme"), 400, unassigned)
	w.expect(on(w, "admin"), 400, unassigned)
	w.expect(
		call{
			method: http.MethodPatch, path: w.repoHref(),
			json: `{"sign_on_push":true,"manifest_signing_service":"` + w.serviceHref() + `"}`,
		},
		202, "",
	)
	w.assign(w.repo.Repository, w.service.ID, pulp.AssignedEarlier)
	w.expect(on(w, "acme"), 202, "")
	w.assign(w.repo.Repository, w.service.ID, pulp.AssignedByAdmin)
	w.expect(on(w, "acme"), 202, "")
	w.expect(on(w, "carol"), 403, "")
	pattern.expect(on(pattern, "acme"), 202, "")

	// After the assignment was revoked, other fields can be changed and sign_on_push can be disabled.
	if _, err := w.store.Catalog.EditRepository(
		t.Context(), nil, pulp.ContainerPush, w.repo.Repository.ID,
		func(r *pulp.Repository) { r.SignOnPush, r.SigningServiceID = true, "" },
	); err != nil {
		t.Fatal(err)
	}
	w.expect(call{method: http.MethodPatch, path: w.repoHref(), user: "acme", json: `{"description":"x"}`}, 202, "")
	w.expect(call{method: http.MethodPatch, path: w.repoHref(), user: "acme", json: `{"sign_on_push":false}`}, 202, "")
}

// TestSigningServicesAreNotShown proves that lists, objects, signatures and reports of verify/ show the href of a
// signing service only to users that may change the repository or view the service. The user carol may view the
// repositories.
func TestSigningServicesAreNotShown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	mirror := w.container("acme/mirror", "")
	w.distribute("acme/mirror", mirror.ID)
	w.assign(w.repo.Repository, w.service.ID, pulp.AssignedByAdmin)
	w.assign(mirror, w.service.ID, pulp.AssignedByAdmin)
	k := newSigningKey(t)
	signer := w.serviceOf(k, "signer")
	w.signWith(k, w.repo, w.manifest, app+"latest")
	storetest.Grant(t, w.store, w.userID("carol"), "container.containerrepository_viewer", "")
	const signatures = "content/container/signatures/"
	asked := []call{
		{path: pulp.PushCollection}, {path: w.repoHref()}, {path: w.repoHref() + "?fields=manifest_signing_service"},
		{path: pulp.ContainerCollection}, {path: pulp.RepositoryHref(mirror.Type, mirror.ID)},
	}
	for user, sees := range map[string]bool{"admin": true, "acme": true, "carol": false} {
		for _, c := range asked {
			c.user = user
			if r := w.expect(
				c, 200, "",
			); strings.Contains(r.raw, w.service.ID) != sees || !strings.Contains(r.raw, "manifest_signing_service") {
				t.Errorf("%s to %s: the service is shown: %t, want %t", c.path, user, !sees, sees)
			}
		}
		for _, c := range []call{
			{path: signatures, user: user},
			{method: http.MethodPost, path: w.repoHref() + "verify/", user: user, json: `{"tag":"latest"}`},
		} {
			r := w.expect(c, 200, "")
			if strings.Contains(r.raw, signer) != (user == "admin") || !strings.Contains(r.raw, `"verified":true`) {
				t.Errorf("%s to %s: %s", c.path, user, r.raw)
			}
		}
		status := 403
		if user == "admin" {
			status = 200
		}
		w.expect(call{path: "signing-services/", user: user}, status, "")
		w.expect(call{path: w.serviceHref(), user: user}, status, "")
	}
}
