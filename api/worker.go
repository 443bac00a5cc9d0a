package api

import (
	"time"

	"github.com/countersign/countersign/api/internal/timestamp"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/internal/store/taskstore"
)

type worker struct {
	object
	Name          string            `json:"name"`
	LastHeartbeat timestamp.Time    `json:"last_heartbeat"`
	Versions      map[string]string `json:"versions"`
	CurrentTask   *string           `json:"current_task"`
	// Services names the signing services that the worker can use. It is a field of our own, for administrators.
	Services *[]string `json:"signing_services,omitempty"`
}

func showWorkers(req *request, all []pulp.Worker) ([]any, error) {
	return showEach(func(w pulp.Worker) any {
		shown := worker{
			object: objectOf(pulp.WorkerCollection, w.ID, pulp.Stamps{Created: w.Started, Updated: w.Heartbeat}), Name: w.Name,
			LastHeartbeat: timestamp.Time(w.Heartbeat), Versions: versionsOf(w.Versions),
			CurrentTask: hrefOrNil(pulp.TaskCollection, w.TaskID),
		}
		if req.administers() {
			shown.Services = &w.Services
		}
		return shown
	})(req, all)
}

// isOnline returns the condition for workers whose last heartbeat is recent enough.
func isOnline() list.Filter {
	return list.Where("last_heartbeat", list.AtLeast, time.Now().Add(-taskstore.WorkerTTL).UnixMicro())
}

func (a *API) workers() resource[pulp.Worker] {
	online := func(wanted bool) filter {
		return boolean(func(v bool) list.Filter {
			if v != wanted {
				return list.Not(isOnline())
			}
			return isOnline()
		})
	}
	return resource[pulp.Worker]{
		model: "AppStatus", form: worker{}, list: list.WorkerList, show: showWorkers, orderings: []string{"name", "last_heartbeat"},
		filters: mergeFilters(identityFilters(), nameFilters(), dateFilters("last_heartbeat"), filters{
			"online": online(true), "missing": online(false),
		}),
	}
}

func (a *API) workerRoutes() []route {
	return []route{
		{path: pulp.WorkerCollection, methods: get(listOf(a, a.workers()))},
		{path: pulp.WorkerCollection + ":id/", href: "worker_href", methods: get(readOf(a, a.workers()))},
	}
}
