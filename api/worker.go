package api

import (
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
)

type worker struct {
	object
	Name          string            `json:"name"`
	LastHeartbeat stamp             `json:"last_heartbeat"`
	Versions      map[string]string `json:"versions"`
	CurrentTask   *string           `json:"current_task"`
	// Services are the names of the signing services that it can use, for administrators. Pulp has no such field.
	Services *[]string `json:"signing_services,omitempty"`
}

func showWorkers(req *request, all []pulp.Worker) ([]any, error) {
	return each(func(w pulp.Worker) any {
		shown := worker{
			object: objectOf(pulp.WorkerCollection, w.ID, pulp.Stamps{Created: w.Started, Updated: w.Heartbeat}), Name: w.Name,
			LastHeartbeat: stamp(w.Heartbeat), Versions: versionsOf(w.Versions), CurrentTask: hrefOrNil(pulp.TaskCollection, w.TaskID),
		}
		if req.user.Staff {
			shown.Services = &w.Services
		}
		return shown
	})(req, all)
}

func (a *API) workers() resource[pulp.Worker] {
	online := func(wanted bool) filter {
		return boolean(func(v bool) store.Filter {
			beating := store.Where("last_heartbeat", store.AtLeast, since(workerTTL))
			if v != wanted {
				return store.Not(beating)
			}
			return beating
		})
	}
	return resource[pulp.Worker]{
		model: "AppStatus", list: store.WorkerList, show: showWorkers, orderings: []string{"name", "last_heartbeat"},
		filters: filterSets(identity(), names(), dates("last_heartbeat"), filters{"online": online(true), "missing": online(false)}),
	}
}

func (a *API) workerRoutes() []route {
	return []route{
		{path: "workers/", methods: get(listOf(a, a.workers()))},
		{path: "workers/:id/", methods: get(readOf(a, a.workers()))},
	}
}
