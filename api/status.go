package api

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/countersign/countersign/internal/store"
)

// The versions of Pulp whose API this is. Clients choose their behaviour by them (contract 8).
const (
	coreVersion      = "3.123.1"
	containerVersion = "2.30.0"
)

// contentPrefix is the path that the status gives for content; registries are under /v2/.
const contentPrefix = "/pulp/container/"

// workerTTL is how long after its last heartbeat a worker counts as online (contract 2.3).
const workerTTL = 30 * time.Second

// maxApps bounds how many workers the status lists.
const maxApps = 1000

// upstreamPatience is how long the status waits for the upstream registry.
const upstreamPatience = 2 * time.Second

type component struct {
	Component        string `json:"component"`
	Version          string `json:"version"`
	Package          string `json:"package"`
	Module           string `json:"module"`
	DomainCompatible bool   `json:"domain_compatible"`
}

type app struct {
	Name          string            `json:"name"`
	LastHeartbeat stamp             `json:"last_heartbeat"`
	Versions      map[string]string `json:"versions"`
}

type connection struct {
	Connected bool `json:"connected"`
}

type space struct {
	Total uint64 `json:"total"`
	Used  uint64 `json:"used"`
	Free  uint64 `json:"free"`
}

type contentSettings struct {
	Origin     string `json:"content_origin"`
	PathPrefix string `json:"content_path_prefix"`
}

type status struct {
	Versions          []component     `json:"versions"`
	OnlineWorkers     []app           `json:"online_workers"`
	OnlineAPIApps     []app           `json:"online_api_apps"`
	OnlineContentApps []app           `json:"online_content_apps"`
	Database          connection      `json:"database_connection"`
	Redis             connection      `json:"redis_connection"`
	Storage           *space          `json:"storage"`
	Content           contentSettings `json:"content_settings"`
	DomainEnabled     bool            `json:"domain_enabled"`
	// What only administrators see; Pulp's status has neither.
	Services []usableService `json:"signing_services,omitempty"`
	Upstream *connection     `json:"upstream_connection,omitempty"`
}

// usableService is a signing service and how many of the online workers can use it; with none its tasks wait.
type usableService struct {
	Name    string `json:"name"`
	Workers int    `json:"online_workers"`
}

// Versions returns the versions that a process of a build announces, by component, in the form of PEP 440.
func Versions(own string) map[string]string {
	return map[string]string{"core": coreVersion, "container": containerVersion, "countersign": pythonVersion(own)}
}

func (a *API) statusRoutes() []route {
	return []route{
		{path: "status/", methods: get(a.status), open: true},
		{path: "livez/", methods: get(a.live), open: true},
		{path: "readyz/", methods: get(a.ready), open: true},
	}
}

// status answers also when the database does not: that is one of the things it tells.
func (a *API) status(req *request) (answer, error) {
	self := []app{{a.Process, stamp(time.Now()), Versions(a.Version)}}
	s := status{
		Versions: []component{
			{"core", coreVersion, "pulpcore", "pulpcore.app", true},
			{"container", containerVersion, "pulp-container", "pulp_container.app", true},
			{"countersign", pythonVersion(a.Version), "countersign", "countersign", true},
		},
		OnlineWorkers: []app{}, OnlineAPIApps: self, OnlineContentApps: self,
		Storage: a.space(req.Context()),
		Content: contentSettings{strings.TrimSuffix(a.PublicURL.String(), "/"), contentPrefix},
	}
	workers, _, err := a.Store.Workers(req.Context(), store.ListQuery{
		Where: []store.Filter{store.Where("last_heartbeat", store.AtLeast, since(workerTTL))}, Limit: maxApps,
	})
	if err != nil {
		a.Log.ErrorContext(req.Context(), "workers not read for the status", slog.Any("err", err))
	}
	s.Database.Connected = err == nil
	if a.Redis != nil {
		err := a.Redis(req.Context())
		if err != nil {
			a.Log.WarnContext(req.Context(), "Redis does not answer; tasks go on by the sweep", slog.Any("err", err))
		}
		s.Redis.Connected = err == nil
	}
	able := map[string]int{}
	for _, w := range workers {
		s.OnlineWorkers = append(s.OnlineWorkers, app{w.Name, stamp(w.Heartbeat), versionsOf(w.Versions)})
		for _, name := range w.Services {
			able[name]++
		}
	}
	if user, err := a.Auth.Basic(req.Request); err != nil || user == nil || !user.Staff {
		return ok(s), nil
	}
	services, err := a.Store.SigningServices(req.Context())
	if err != nil {
		s.Database.Connected = false
	}
	for _, v := range services {
		s.Services = append(s.Services, usableService{v.Name, able[v.Name]})
	}
	if a.Upstream && a.Ready != nil {
		ctx, cancel := context.WithTimeout(req.Context(), upstreamPatience)
		defer cancel()
		err := a.Ready(ctx)
		if err != nil {
			a.Log.WarnContext(req.Context(), "the upstream registry does not answer", slog.Any("err", err))
		}
		s.Upstream = &connection{err == nil}
	}
	return ok(s), nil
}

func versionsOf(v map[string]string) map[string]string {
	shown := map[string]string{}
	for name, version := range v {
		shown[name] = pythonVersion(version)
	}
	return shown
}

// space measures the file system of the data directory; nil when there is none to measure.
func (a *API) space(ctx context.Context) *space {
	if a.DataDir == "" {
		return nil
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(a.DataDir, &fs); err != nil {
		a.Log.WarnContext(ctx, "data directory not measured", slog.Any("err", err))
		return nil
	}
	size := uint64(fs.Bsize)
	return &space{Total: fs.Blocks * size, Used: (fs.Blocks - fs.Bfree) * size, Free: fs.Bavail * size}
}

// live says that the process serves; it asks nobody.
func (a *API) live(*request) (answer, error) { return answer{status: http.StatusOK}, nil }

// ready says that the process can do its work: the database answers, and so does what Options.Ready asks.
func (a *API) ready(req *request) (answer, error) {
	err := a.Store.Ping(req.Context())
	if err == nil && a.Ready != nil {
		err = a.Ready(req.Context())
	}
	if err != nil {
		a.Log.WarnContext(req.Context(), "not ready", slog.Any("err", err))
		return answer{status: http.StatusServiceUnavailable, body: detail("Not ready.")}, nil
	}
	return answer{status: http.StatusOK}, nil
}
