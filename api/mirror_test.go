package api_test

import (
	"testing"

	"github.com/countersign/countersign/api"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
)

// mirrors is a world with a remote and two container repositories: one with the content of acme/app, and an empty one.
type mirrors struct {
	*world
	full, empty pulp.Repository // acme/full, mirrored from the remote, and acme/empty
	remote      pulp.Remote     // acme/remote
}

func newMirrors(t *testing.T, set ...func(*api.Options)) *mirrors {
	t.Helper()
	m := &mirrors{world: newWorld(t, set...)}
	var err error
	m.remote, err = m.store.Catalog.CreateRemote(t.Context(), pulp.Remote{
		Name: "acme/remote", URL: "https://upstream.example", UpstreamName: "library/app", Policy: pulp.Immediate, Includes: []string{"v*"},
		Connection: pulp.Connection{
			TLSValidation: true,
		}, Secrets: pulp.RemoteSecrets{Username: ptr("robot"), Password: ptr("tellnobody")},
	}, 0)
	if err != nil {
		t.Fatal(err)
	}
	m.full, m.empty = m.container("acme/full", m.remote.ID), m.container("acme/empty", "")
	m.full = m.copyApp(m.full)
	return m
}

// container creates an empty container repository.
func (w *world) container(name, remoteID string) pulp.Repository {
	w.t.Helper()
	r, err := w.store.Catalog.CreateRepository(
		w.t.Context(), pulp.Repository{Type: pulp.Container, Name: name, RemoteID: remoteID}, w.owner(name),
	)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// copyApp copies the tagged images of acme/app to a repository, without their signatures.
func (w *world) copyApp(r pulp.Repository) pulp.Repository {
	w.t.Helper()
	_, err := w.store.Content.CopyContent(
		w.t.Context(), nil, r.ID,
		content.Copy{
			RepositoryID: w.repo.Repository.ID, Number: w.latest(pulp.ContainerPush, w.repo.Repository.ID), Tags: true,
		},
	)
	if err == nil {
		r, err = w.store.Catalog.Repository(w.t.Context(), r.Type, r.ID)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) latest(t pulp.RepositoryType, id string) int64 {
	w.t.Helper()
	r, err := w.store.Catalog.Repository(w.t.Context(), t, id)
	if err != nil {
		w.t.Fatal(err)
	}
	return r.LatestVersion
}

// serve creates a distribution.
func (w *world) serve(d pulp.Distribution) pulp.Distribution {
	w.t.Helper()
	d, err := w.store.Catalog.CreateDistribution(w.t.Context(), nil, d, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	w.own(d.BasePath)
	return d
}

// pin creates a distribution of a version.
func (w *world) pin(path, repositoryID string, number int64) pulp.Distribution {
	w.t.Helper()
	v, err := w.store.Content.Version(w.t.Context(), repositoryID, number)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.serve(
		pulp.Distribution{
			Name: path, BasePath: path, Pinned: &pulp.PinnedVersion{VersionID: v.ID, RepositoryID: repositoryID, Number: number},
		},
	)
}

func href(r pulp.Repository) string { return pulp.RepositoryHref(r.Type, r.ID) }

func (m *mirrors) remoteHref() string { return pulp.Href(pulp.RemoteCollection, m.remote.ID) }
