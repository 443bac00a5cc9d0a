package app_test

import (
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/countersign/countersign/internal/app/apptest"
	"github.com/countersign/countersign/internal/eventually"
)

// receiver is an OTLP receiver that keeps all spans.
type receiver struct {
	*httptest.Server
	mu    sync.Mutex
	spans []*otlp.Span
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, err := io.ReadAll(q.Body)
		var sent collector.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(body, &sent)
		}
		if err != nil || q.URL.Path != "/v1/traces" {
			t.Errorf("request to %s: %v", q.URL.Path, err)
			http.Error(w, "bad request", http.StatusBadRequest)
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, of := range sent.GetResourceSpans() {
			for _, scope := range of.GetScopeSpans() {
				r.spans = append(r.spans, scope.GetSpans()...)
			}
		}
	}))
	t.Cleanup(r.Close)
	return r
}

// all returns the spans that have arrived.
func (r *receiver) all() []*otlp.Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.spans)
}

// named returns the first span with a name.
func named(spans []*otlp.Span, name string) *otlp.Span {
	for _, s := range spans {
		if s.GetName() == name {
			return s
		}
	}
	return nil
}

// children returns whether a span is below another one, through any number of spans.
func below(spans []*otlp.Span, s, top *otlp.Span) bool {
	for s != nil && string(s.GetSpanId()) != string(top.GetSpanId()) {
		i := slices.IndexFunc(spans, func(p *otlp.Span) bool { return string(p.GetSpanId()) == string(s.GetParentSpanId()) })
		if i < 0 {
			return false
		}
		s = spans[i]
	}
	return s != nil
}

const (
	pushRoute = "PUT /v2/{name}/manifests/{reference}"
	signRoute = "POST /pulp/api/v3/repositories/container/container-push/{id}/sign/"
	signTask  = "task pulp_container.app.tasks.sign.sign"
)

// TestTraces verifies that one trace covers a request, the task that it starts, and the signer; that a push which is signed
// at once has the signer in its trace; and that nothing is recorded for health checks.
func TestTraces(t *testing.T) {
	t.Parallel()
	spans := newReceiver(t)
	s := apptest.Start(t, apptest.Load(t, "TRACING_ENDPOINT="+spans.URL, "SIGNING_ON_PUSH=signed/*=countersign"))
	s.Push(t, "signed/app", "v1")
	s.Push(t, "team/app", "v1")
	s.Get(t, "/pulp/api/v3/livez/")
	post(t, s, "team/app")
	eventually.True(t, time.Minute, func() bool {
		return strings.Contains(s.Get(t, "/pulp/api/v3/tasks/?state=completed&name=pulp_container.app.tasks.sign.sign").Body, `"count":1`)
	}, "the task ends")
	if err := s.Stop(t); err != nil { // exports the last spans
		t.Fatal(err)
	}
	all := spans.all()
	request, task := named(all, signRoute), named(all, signTask)
	if request == nil || task == nil {
		t.Fatalf("no span of the request or of the task: %v", names(all))
	}
	signers := 0
	for _, span := range all {
		if span.GetName() != "sign" {
			continue
		}
		signers++
		switch {
		case below(all, span, task):
			if string(span.GetTraceId()) != string(request.GetTraceId()) || !below(all, task, request) {
				t.Error("the task is in another trace than the request")
			}
		case !slices.ContainsFunc(all, func(p *otlp.Span) bool { return p.GetName() == pushRoute && below(all, span, p) }):
			t.Errorf("a signature belongs neither to the task nor to a push: %v", span)
		}
	}
	if signers != 2 {
		t.Errorf("%d spans of the signer, want 2: %v", signers, names(all))
	}
	for _, span := range all {
		if strings.Contains(span.GetName(), "livez") || strings.Contains(span.GetName(), "registry.storage") {
			t.Errorf("span %s", span.GetName())
		}
	}
}

// post starts a sign task for a repository.
func post(t *testing.T, s *apptest.Server, name string) {
	t.Helper()
	href := func(path string) string {
		t.Helper()
		var list struct {
			Results []struct {
				Href string `json:"pulp_href"`
			}
		}
		if err := json.Unmarshal([]byte(s.Get(t, path).Body), &list); err != nil || len(list.Results) != 1 {
			t.Fatalf("GET %s: %v, %v", path, list, err)
		}
		return list.Results[0].Href
	}
	repository := href("/pulp/api/v3/repositories/container/container-push/?name=" + name)
	body := `{"manifest_signing_service": "` + href("/pulp/api/v3/signing-services/") + `"}`
	if r := s.Do(t, http.MethodPost, repository+"sign/", "application/json", strings.NewReader(body)); r.StatusCode != http.StatusAccepted {
		t.Fatalf("sign: %d %s", r.StatusCode, r.Body)
	}
}

func names(spans []*otlp.Span) (all []string) {
	for _, s := range spans {
		all = append(all, s.GetName())
	}
	return all
}

// TestParentOfClients verifies that the trace of a client is continued only if the settings say so, and otherwise linked, and
// that a client cannot have its requests recorded.
func TestParentOfClients(t *testing.T) {
	t.Parallel()
	const id = "0af7651916cd43dd8448eb211c80319c"
	for name, tt := range map[string]struct {
		variables []string
		flags     string // of the client's traceparent
		trace     string // "own", "client's" or "" for none
	}{
		"refused":                    {nil, "01", "own"},
		"refused, none are recorded": {[]string{"TRACING_SAMPLE_RATIO=0"}, "01", ""},
		"accepted":                   {[]string{"TRACING_ACCEPT_PARENT=true", "TRACING_SAMPLE_RATIO=0"}, "01", "client's"},
		"accepted, not recorded":     {[]string{"TRACING_ACCEPT_PARENT=true"}, "00", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spans := newReceiver(t)
			s := apptest.Start(t, apptest.Load(t, append(tt.variables, "TRACING_ENDPOINT="+spans.URL)...))
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/v2/team/app/tags/list", nil)
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Traceparent", "00-"+id+"-b7ad6b7169203331-"+tt.flags)
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			_ = response.Body.Close()
			if err := s.Stop(t); err != nil {
				t.Fatal(err)
			}
			span := named(spans.all(), "GET /v2/{name}/tags/list")
			switch {
			case span == nil:
				if tt.trace != "" {
					t.Errorf("no span: %v", names(spans.all()))
				}
			case hex.EncodeToString(span.GetTraceId()) == id:
				if tt.trace != "client's" {
					t.Error("the span continues the client's trace")
				}
			case tt.trace != "own":
				t.Error("the span has a trace of its own")
			case len(span.GetLinks()) != 1 || hex.EncodeToString(span.GetLinks()[0].GetTraceId()) != id:
				t.Errorf("links %v, want one to the client's trace", span.GetLinks())
			}
		})
	}
}
