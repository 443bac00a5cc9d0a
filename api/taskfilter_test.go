package api_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/tasks"
)

func TestTaskFilters(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	repo, other := w.repoHref(), pulp.RepositoryHref(pulp.Container, pulp.NewID())
	make := func(name string, exclusive bool, href string) taskstore.Task {
		t.Helper()
		k, err := w.store.Tasks.CreateTask(
			t.Context(),
			taskstore.NewTask{
				Name: name, Args: struct{}{}, CID: "cid-" + name, Origin: taskstore.OriginUser, CreatedBy: 1,
				Resources: []taskstore.Resource{{Href: href, Exclusive: exclusive}},
			},
		)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	one := make("one", true, repo)
	make("two", false, repo)
	make("three", true, other)
	worker := pulp.NewID()
	k, err := w.store.Tasks.ClaimTask(t.Context(), worker, one.ID, nil, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	version := pulp.VersionHref(pulp.ContainerPush, w.repo.Repository.ID, w.signed.Number)
	gone := pulp.VersionHref(pulp.ContainerPush, w.repo.Repository.ID, 99)
	if err := w.store.Tasks.CompleteTask(
		t.Context(), &taskstore.Claim{TaskID: k.ID, Attempt: k.Attempt}, taskstore.Outcome{Created: []taskstore.Created{
			{Href: version, PRN: pulp.VersionPRN(w.signed.ID)}, {Href: gone, PRN: pulp.VersionPRN(pulp.NewID())},
		}},
	); err != nil {
		t.Fatal(err)
	}
	prn := pulp.PRN(pulp.PushCollection, w.repo.Repository.ID)
	for query, want := range map[string]string{
		"reserved_resources=" + repo:                          "two one",
		"reserved_resources=" + prn:                           "two one",
		"reserved_resources__in=" + prn + "," + other:         "three two one",
		"exclusive_resources=" + repo:                         "one",
		"shared_resources__in=" + repo + "," + other:          "two",
		"created_resources=" + version:                        "one",
		"created_resources=" + pulp.VersionPRN(w.signed.ID):   "one",
		"created_resources=" + repo:                           "",
		"worker=" + pulp.Href(pulp.WorkerCollection, worker):  "one",
		"state=waiting":                                       "three two",
		"state__in=completed,failed":                          "one",
		"state__ne=waiting":                                   "one",
		"name=two":                                            "two",
		"name__ne=two":                                        "three one",
		"name__in=one,two":                                    "two one",
		"logging_cid=cid-two":                                 "two",
		"logging_cid__contains=cid-t":                         "three two",
		"started_at__isnull=true":                             "three two",
		"finished_at__gt=2020-01-01T00:00":                    "one",
		"pulp_created__lt=2020-01-01":                         "",
		"pulp_created__range=2020-01-01,2099-01-01T00:00:00Z": "three two one",
		"parent_task=" + pulp.Href(pulp.TaskCollection, k.ID): "",
		"ordering=started_at":                                 "one three two",
		"ordering=-started_at":                                "three two one",
	} {
		t.Run(query, func(t *testing.T) {
			if got := strings.Join(w.results("tasks/?"+query, "name"), " "); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
	if got, want := w.get(
		pulp.Href(pulp.TaskCollection, k.ID),
	)["created_resources"], []any{version, "<unavailable>"}; !cmp.Equal(got, any(want)) {
		t.Errorf("created_resources: %v, want %v", got, want)
	}
	if got, want := fmt.Sprint(
		w.results("tasks/?ordering=name", "reserved_resources_record"),
	), fmt.Sprintf("[[%s] [%s] [shared:%s]]", repo, other, repo); got != want {
		t.Errorf("reserved_resources_record: %s, want %s", got, want)
	}
	if got := w.get(pulp.Href(pulp.TaskCollection, k.ID))["worker"]; got != pulp.Href(pulp.WorkerCollection, worker) {
		t.Errorf("worker: %v", got)
	}
}

func TestTaskFiltersAcceptReferences(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	repo := w.repoHref()
	k := task(w, 1, repo)
	version := pulp.VersionHref(pulp.ContainerPush, w.repo.Repository.ID, w.signed.Number)
	made := taskstore.Created{Href: version, PRN: pulp.VersionPRN(w.signed.ID)}
	if err := w.store.Tasks.CompleteTask(
		t.Context(), claim(w, k), taskstore.Outcome{Created: []taskstore.Created{made}},
	); err != nil {
		t.Fatal(err)
	}
	for query, want := range map[string]int{
		"created_resources=" + w.server.URL + version:                                  1,
		"created_resources=prn:core.repositoryversion:" + strings.ToUpper(w.signed.ID): 1,
		"created_resources=" + repo + "versions/99/":                                   0,
		"created_resources=":                                           1,
		"reserved_resources=" + w.server.URL + repo:                    1,
		"reserved_resources=" + version:                                0, // the href of a version does not name its repository
		"exclusive_resources=" + version + "," + repo:                  1,
		"shared_resources=" + repo:                                     0,
		"reserved_resources=abc":                                       -1,
		"state=completed":                                              1,
		"state=waiting&state=completed":                                1,
		"state=":                                                       1,
		"state=completed,waiting":                                      -1,
		"state__ne=completed,waiting":                                  -1,
		"state__ne=completed":                                          0,
		"state__in=completed,waiting":                                  1,
		"unblocked_at__lte=2099-01-01&started_at__gte=2020-01-01":      1,
		"finished_at__range=2020-01-01,2020-01-02":                     0,
		"child_tasks=" + pulp.Href(pulp.TaskCollection, k.ID):          0,
		"parent_task=abc":                                              -1,
		"worker=abc":                                                   -1,
		"name=" + tasks.Sign + "&logging_cid=cid&minimal=true":         1,
		"q=" + url.QueryEscape(`state=completed AND NOT state=failed`): 1,
	} {
		r := w.do(call{path: "tasks/?" + query})
		switch {
		case want < 0 && r.StatusCode != http.StatusBadRequest, want >= 0 && r.StatusCode != http.StatusOK:
			t.Errorf("%s: %d %s", query, r.StatusCode, r.raw)
		case want >= 0 && r.body.(map[string]any)["count"] != float64(want):
			t.Errorf("%s: %v, want %d", query, r.body.(map[string]any)["count"], want)
		}
	}
}
