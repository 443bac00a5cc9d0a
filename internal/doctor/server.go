package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/apiclient"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

// requestTimeout limits one request of a check.
const requestTimeout = 15 * time.Second

// Status has the fields of a server's status that checks read.
type Status struct {
	Workers []struct {
		Name      string    `json:"name"`
		Heartbeat time.Time `json:"last_heartbeat"`
	} `json:"online_workers"`
	Database Connection  `json:"database_connection"`
	Upstream *Connection `json:"upstream_connection"`
	Storage  *struct {
		Total uint64 `json:"total"`
		Free  uint64 `json:"free"`
	} `json:"storage"`
	Content struct {
		Origin string `json:"content_origin"`
	} `json:"content_settings"`
	Services []struct {
		Name    string `json:"name"`
		Workers int    `json:"online_workers"`
	} `json:"signing_services"`
}

// Connection is the state of a connection.
type Connection struct {
	Connected bool `json:"connected"`
}

// Server checks a server as its clients see it: whether it answers at its URL, the certificate, the clock, and the addresses that
// it tells its clients. at is the public URL, or the URL that a client uses. It reports whether the REST API answers.
func (r *Report) Server(ctx context.Context, at *url.URL, transport http.RoundTripper) bool {
	check := "address " + at.String()
	began := time.Now()
	response, err := request(ctx, at.String()+pulp.Root+"status/", transport) //nolint:bodyclose // request closes it
	if err != nil {
		r.fail(check, unreachableNext(at, err), "does not answer: %s", oneLine(err))
		return false
	}
	r.ok(check, "answers")
	if at.Scheme == "http" && !loopback(at.Hostname()) {
		r.warn("encryption", "use TLS: tls.cert_file, or a proxy with TLS and an https public_url (docs/deploy.md)",
			"clients send passwords and tokens to %s in plain text", at)
	}
	if response.TLS != nil && len(response.TLS.PeerCertificates) > 0 {
		r.expiry("certificate of "+at.Host, response.TLS.PeerCertificates[0].NotAfter, time.Now(), "renew the certificate")
	}
	if date, err := http.ParseTime(response.Header.Get("Date")); err == nil {
		r.clock("the server", date, began, time.Since(began)+time.Second) // the header has whole seconds
	}
	c := apiclient.New(apiclient.Options{Server: at, Transport: transport})
	var v Status
	if err := c.Get(ctx, pulp.Root+"status/", nil, &v); err != nil {
		r.fail("status", "check that the address is that of Countersign, and the proxy before it", "no status: %s", oneLine(err))
		return false
	}
	r.publicURL(at, v.Content.Origin)
	r.realm(ctx, at, transport)
	return true
}

// request sends a GET request, without following redirects, and discards the body.
func request(ctx context.Context, address string, transport http.RoundTripper) (*http.Response, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	client := &http.Client{
		Transport: transport, Timeout: requestTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(q)
	if failed, ok := errors.AsType[*url.Error](err); ok {
		err = failed.Err
	}
	if err == nil {
		_ = response.Body.Close()
	}
	return response, err
}

// unreachableNext returns the next step for a server that does not answer.
func unreachableNext(at *url.URL, err error) string {
	_, unresolved := errors.AsType[*net.DNSError](err)
	switch {
	case unresolved:
		return "correct the host name, or add it to the DNS"
	case strings.Contains(err.Error(), "certificate"):
		return "renew the certificate, or trust its authority with --ca-file"
	case errors.Is(err, http.ErrSchemeMismatch):
		return "the server does not speak TLS there: use http, or configure tls.cert_file"
	case loopback(at.Hostname()):
		return "start the server, or correct listen and public_url"
	}
	return "check that the server runs, and the proxy and the firewall before it"
}

// publicURL compares the address with the public URL of the server.
func (r *Report) publicURL(at *url.URL, origin string) {
	public, err := url.Parse(origin)
	const next = "set public_url to the URL that clients use; signatures contain its host (docs/operations.md, \"When public_url changes\")"
	switch {
	case err != nil || public.Host == "":
		r.fail("public_url", next, "the server has the public URL %q", origin)
	case public.Host != at.Host && !(loopback(public.Hostname()) && loopback(at.Hostname()) && public.Port() == at.Port()):
		r.fail("public_url", next, "the server has the public URL %s, but is used as %s: signatures name %s", origin, at, public.Host)
	case public.Scheme != at.Scheme:
		r.fail("public_url", next, "the server has the public URL %s, but is used as %s: tokens are requested there", origin, at)
	case loopback(public.Hostname()):
		r.warn("public_url", next, "%s is an address of this machine only: other machines cannot use the signatures", origin)
	default:
		r.ok("public_url", "is %s", origin)
	}
}

// realm checks that the registry sends clients for tokens to the address that they use.
func (r *Report) realm(ctx context.Context, at *url.URL, transport http.RoundTripper) {
	response, err := request(ctx, at.String()+"/v2/", transport) //nolint:bodyclose // request closes it
	if err != nil {
		r.fail("registry", unreachableNext(at, err), "/v2/ does not answer: %s", oneLine(err))
		return
	}
	challenge := response.Header.Get("Www-Authenticate")
	_, rest, found := strings.Cut(challenge, `realm="`)
	text, _, _ := strings.Cut(rest, `"`)
	realm, err := url.Parse(text)
	switch {
	case response.StatusCode == http.StatusOK:
		r.ok("registry", "answers without a login")
	case response.StatusCode != http.StatusUnauthorized || !found || err != nil:
		r.fail("registry", "let the proxy pass /v2/, /extensions/ and /token/ to Countersign unchanged (docs/deploy.md)",
			"/v2/ answers with %s and the challenge %q", response.Status, challenge)
	case realm.Host != at.Host || realm.Scheme != at.Scheme:
		r.warn("registry", "set public_url to the URL that clients use", "clients that use %s are sent to %s for tokens", at, text)
	default:
		r.ok("registry", "requests tokens at %s", text)
	}
}

// State checks the connections, workers and tasks that the API reports to an administrator, or to another user as far as it does.
func (r *Report) State(ctx context.Context, c *apiclient.Client) {
	var v Status
	if err := c.Get(ctx, pulp.Root+"status/", nil, &v); err != nil {
		r.fail("status", "see the log of the server", "no status: %s", oneLine(err))
		return
	}
	if !v.Database.Connected {
		r.fail("database", "start the database, and check database_url", "the server has no connection to it")
	} else {
		r.ok("database", "is connected")
	}
	if v.Upstream != nil && !v.Upstream.Connected {
		r.fail("upstream", "check that the upstream registry runs, upstream_url and upstream.ca_file", "does not answer")
	} else if v.Upstream != nil {
		r.ok("upstream", "answers")
	}
	if v.Storage != nil {
		r.space("space of the data directory", v.Storage.Free, v.Storage.Total)
	}
	r.workers(v)
	r.tasks(ctx, c, v)
}

// workers checks that there are workers, their clocks, and that each signing service can be used.
func (r *Report) workers(v Status) {
	if len(v.Workers) == 0 {
		r.fail("workers", "start a server, or a worker on the same database and Redis", "none is online: all tasks wait")
	} else {
		r.ok("workers", "%d online", len(v.Workers))
	}
	for _, w := range v.Workers {
		if ahead := time.Until(w.Heartbeat); ahead > skewWarned {
			r.warn("clock of worker "+w.Name, "synchronize the clocks of all machines", "its last heartbeat is %v in the future", ahead.Round(time.Second))
		}
	}
	for _, s := range v.Services {
		check := "signing service " + s.Name
		if s.Workers == 0 {
			r.fail(check, "give a worker access to the key, or remove the service (docs/deploy.md, \"Places of keys and scripts\")",
				"no online worker can use its key: its tasks wait")
		} else {
			r.ok(check, "%d of %d workers can use its key", s.Workers, len(v.Workers))
		}
	}
}

// task has the fields of tasks that checks read.
type task struct {
	Href      string     `json:"pulp_href"`
	Name      string     `json:"name"`
	Unblocked *time.Time `json:"unblocked_at"`
	Started   *time.Time `json:"started_at"`
	Worker    *string    `json:"worker"`
}

// maxTasks is the number of tasks of each state that checks look at, the oldest first.
const maxTasks = 100

// tasks looks for tasks that wait or run for too long.
func (r *Report) tasks(ctx context.Context, c *apiclient.Client, v Status) {
	waiting, count, err := oldest(ctx, c, "waiting")
	if fault.Is(err, fault.Unauthenticated) {
		r.warn("tasks", "log in as an administrator to check tasks", "are not checked: %s", oneLine(err))
		return
	}
	if err != nil {
		r.fail("tasks", "see the log of the server", "cannot be read: %s", oneLine(err))
		return
	}
	late := slices.DeleteFunc(waiting, func(t task) bool { return t.Unblocked == nil || time.Since(*t.Unblocked) < waitsLong })
	if len(late) > 0 {
		r.warn("queue", "see the findings about workers and signing services; start more workers if all are busy",
			"%d tasks wait; %s (%s) is ready since %s", count, id(late[0]), late[0].Name, late[0].Unblocked.UTC().Format(time.RFC3339))
	} else {
		r.ok("queue", "%d tasks wait", count)
	}
	running, count, err := oldest(ctx, c, "running")
	if err != nil {
		r.fail("tasks", "see the log of the server", "cannot be read: %s", oneLine(err))
		return
	}
	stuck := false
	for _, t := range running {
		if t.Started != nil && time.Since(*t.Started) > runsLong {
			stuck = true
			r.warn("task "+id(t), fmt.Sprintf("see its progress with `countersign task show %s`; `task cancel` ends it", id(t)),
				"%s runs since %s", t.Name, t.Started.UTC().Format(time.RFC3339))
		} else if len(v.Workers) == 0 {
			stuck = true
			r.warn("task "+id(t), "start a server or a worker: it continues the task", "%s is running, but its worker is not online", t.Name)
		}
	}
	if !stuck {
		r.ok("running tasks", "%d, none of them for long", count)
	}
}

func id(t task) string {
	parts := strings.Split(strings.Trim(t.Href, "/"), "/")
	return parts[len(parts)-1]
}

// oldest returns the oldest tasks of a state, and the number of all.
func oldest(ctx context.Context, c *apiclient.Client, state string) ([]task, int, error) {
	query := url.Values{"state": {state}, "ordering": {"pulp_created"}}
	return apiclient.List[task](ctx, c, pulp.Root+pulp.TaskCollection, query, maxTasks)
}

// loopback reports whether a host is this machine.
func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || ip != nil && ip.IsLoopback()
}
