package api

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/countersign/countersign/api/internal/pep440"
	"github.com/countersign/countersign/api/internal/reply"
	"github.com/countersign/countersign/api/internal/timestamp"
	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/list"
)

// Versions of Pulp's API that this package serves. Clients choose their behaviour by them (compatibility.md#pulp-cli).
const (
	coreVersion      = "3.123.1"
	containerVersion = "2.30.0"
)

// contentPrefix is the path of content in the status. Registry clients use /v2/ instead.
const contentPrefix = "/pulp/container/"

// maxApps is the largest number of workers in the status.
const maxApps = 1000

// upstreamTimeout is the time that the status waits for the upstream registry.
const upstreamTimeout = 2 * time.Second

type component struct {
	Component        string `json:"component"`
	Version          string `json:"version"`
	Package          string `json:"package"`
	Module           string `json:"module"`
	DomainCompatible bool   `json:"domain_compatible"`
}

type app struct {
	Name          string            `json:"name"`
	LastHeartbeat timestamp.Time    `json:"last_heartbeat"`
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
	// Fields of our own, for administrators.
	Services []usableService `json:"signing_services,omitempty"`
	Upstream *connection     `json:"upstream_connection,omitempty"`
}

// usableService is a signing service with the number of online workers that can use it. While that is 0, its tasks
// wait.
type usableService struct {
	Name    string `json:"name"`
	Workers int    `json:"online_workers"`
}

// Versions returns the versions that a process of a build reports, by component, in the form of PEP 440.
func Versions(build string) map[string]string {
	return map[string]string{"core": coreVersion, "container": containerVersion, "countersign": pep440.Version(build)}
}

func (a *API) statusRoutes() []route {
	return []route{
		{path: "status/", open: true, methods: get(operation{verb: "read", handle: a.status, replies: replies{http.StatusOK: status{}}})},
		{path: "livez/", open: true, methods: get(operation{verb: "read", handle: a.live, replies: replies{http.StatusOK: nil}})},
		{path: "readyz/", open: true, methods: get(operation{verb: "read", handle: a.ready, replies: replies{http.StatusOK: nil}})},
	}
}

// status reports the state of the server and its connections. It succeeds without the database, whose state it reports.
func (a *API) status(req *request) (reply.Reply, error) {
	self := []app{{a.Process, timestamp.Time(time.Now()), Versions(a.Version)}}
	s := status{
		Versions: []component{
			{"core", coreVersion, "pulpcore", "pulpcore.app", true},
			{"container", containerVersion, "pulp-container", "pulp_container.app", true},
			{"countersign", pep440.Version(a.Version), "countersign", "countersign", true},
		},
		OnlineWorkers: []app{}, OnlineAPIApps: self, OnlineContentApps: self,
		Storage: a.space(req.Context()),
		Content: contentSettings{strings.TrimSuffix(a.PublicURL.String(), "/"), contentPrefix},
	}
	workers, _, err := a.Store.Lists.Workers(req.Context(), list.Query{Where: []list.Filter{isOnline()}, Limit: maxApps})
	if err != nil {
		a.Log.ErrorContext(req.Context(), "status: reading the workers failed", slog.Any("err", err))
	}
	s.Database.Connected = err == nil
	for _, w := range workers {
		s.OnlineWorkers = append(s.OnlineWorkers, app{w.Name, timestamp.Time(w.Heartbeat), versionsOf(w.Versions)})
	}
	if a.Redis != nil {
		err := a.Redis(req.Context())
		if err != nil {
			a.Log.WarnContext(req.Context(), "Redis does not answer; workers find tasks by polling the database",
				slog.Any("err", err))
		}
		s.Redis.Connected = err == nil
	}
	if caller, err := a.Auth.Basic(req.Request); err == nil && access.Allow(caller, access.Administer, access.OfServer()) {
		a.addPrivateStatus(req, &s, workers)
	}
	return reply.OK(s), nil
}

// addPrivateStatus adds the fields for administrators.
func (a *API) addPrivateStatus(req *request, s *status, workers []pulp.Worker) {
	usable := map[string]int{} // number of workers by service
	for _, w := range workers {
		for _, name := range w.Services {
			usable[name]++
		}
	}
	services, err := a.Store.Signatures.SigningServices(req.Context())
	if err != nil {
		s.Database.Connected = false
	}
	for _, v := range services {
		s.Services = append(s.Services, usableService{v.Name, usable[v.Name]})
	}
	if !a.Upstream || a.Ready == nil {
		return
	}
	ctx, cancel := context.WithTimeout(req.Context(), upstreamTimeout)
	defer cancel()
	err = a.Ready(ctx)
	if err != nil {
		a.Log.WarnContext(req.Context(), "the upstream registry does not answer", slog.Any("err", err))
	}
	s.Upstream = &connection{err == nil}
}

// versionsOf returns the versions of a worker's components in the form of PEP 440.
func versionsOf(v map[string]string) map[string]string {
	shown := map[string]string{}
	for name, version := range v {
		shown[name] = pep440.Version(version)
	}
	return shown
}

// space returns the usage of the data directory's file system; nil when there is no data directory.
func (a *API) space(ctx context.Context) *space {
	if a.DataDir == "" {
		return nil
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(a.DataDir, &fs); err != nil {
		a.Log.WarnContext(ctx, "measuring the data directory failed", slog.Any("err", err))
		return nil
	}
	size := uint64(fs.Bsize)
	return &space{Total: fs.Blocks * size, Used: (fs.Blocks - fs.Bfree) * size, Free: fs.Bavail * size}
}

// live reports that the process handles requests. It checks nothing else.
func (a *API) live(*request) (reply.Reply, error) { return reply.Reply{Status: http.StatusOK}, nil }

// ready reports whether the process can do its work: whether the database answers and Options.Ready returns no error.
func (a *API) ready(req *request) (reply.Reply, error) {
	err := a.Store.DB.Ping(req.Context())
	if err == nil && a.Ready != nil {
		err = a.Ready(req.Context())
	}
	if err != nil {
		a.Log.WarnContext(req.Context(), "not ready", slog.Any("err", err))
		return reply.Reply{Status: http.StatusServiceUnavailable, Body: reply.Detail("Not ready.")}, nil
	}
	return reply.Reply{Status: http.StatusOK}, nil
}
