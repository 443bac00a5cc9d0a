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
}

func showWorker(w pulp.Worker) any {
	return worker{
		object: objectOf(pulp.WorkerCollection, w.ID, pulp.Stamps{Created: w.Started, Updated: w.Heartbeat}), Name: w.Name,
		LastHeartbeat: stamp(w.Heartbeat), Versions: versionsOf(w.Versions), CurrentTask: hrefOrNil(pulp.TaskCollection, w.TaskID),
	}
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
		model: "AppStatus", list: (*store.Store).Workers, show: each(showWorker), orderings: []string{"name", "last_heartbeat"},
		filters: filterSets(identity(), names(), dates("last_heartbeat"), filters{"online": online(true), "missing": online(false)}),
	}
}

func (a *API) workerRoutes() []route {
	return []route{
		{path: "workers/", methods: get(listOf(a, a.workers()))},
		{path: "workers/:id/", methods: get(readOf(a, a.workers()))},
	}
}
