package metrics_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/countersign/countersign/internal/metrics"
	"github.com/countersign/countersign/internal/telemetry"
)

func newMetrics() *metrics.Metrics {
	return metrics.New(metrics.Options{Version: "1", Log: slog.New(slog.DiscardHandler), Values: metrics.Values{
		Tasks: []string{"sign"}, TaskResults: []string{"completed"}, SignatureResults: []string{"made"}, Peers: []string{"remote"},
	}})
}

// scrape returns the exposition.
func scrape(t *testing.T, m *metrics.Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	text, err := io.ReadAll(w.Body)
	if err != nil || w.Code != http.StatusOK {
		t.Fatalf("scrape: %d, %v: %s", w.Code, err, text)
	}
	return string(text)
}

func wantLine(t *testing.T, text string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains("\n"+text, "\n"+line+"\n") {
			t.Errorf("the exposition lacks %q", line)
		}
	}
}

// TestStuckDatabase verifies that a scrape is answered within a limit while reading the state and checking a dependency hang,
// and that only one call of each runs.
func TestStuckDatabase(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMetrics()
		var calls atomic.Int32
		stuck, end := make(chan struct{}), false
		m.Watch(metrics.Sources{
			Stored: func(context.Context) (metrics.Stored, error) { // does not heed its context
				calls.Add(1)
				<-stuck
				return metrics.Stored{Workers: 7}, nil
			},
			Dependencies: map[string]func(context.Context) error{
				"database": func(ctx context.Context) error {
					if end {
						return nil
					}
					<-ctx.Done()
					return ctx.Err()
				},
				"storage": func(context.Context) error { return nil },
			},
		})
		for range 3 {
			began := time.Now()
			text := scrape(t, m)
			if took := time.Since(began); took > 4*time.Second {
				t.Errorf("a scrape took %v", took)
			}
			wantLine(t, text, `countersign_dependency_up{dependency="database"} 0`, `countersign_dependency_up{dependency="storage"} 1`)
			if strings.Contains(text, "countersign_workers ") {
				t.Error("the scrape has a state that could not be read")
			}
		}
		if n := calls.Load(); n != 1 {
			t.Errorf("%d reads run at a time", n)
		}
		end = true
		close(stuck)
		synctest.Wait()
		time.Sleep(time.Hour)
		text := scrape(t, m)
		wantLine(t, text, "countersign_workers 7", `countersign_dependency_up{dependency="database"} 1`, "countersign_state_read_failures_total 3")
	})
}

// TestStateIsKept verifies that frequent scrapes do not read the state each time, and that a slow read is repeated less often.
func TestStateIsKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMetrics()
		calls := 0
		m.Watch(metrics.Sources{Stored: func(context.Context) (metrics.Stored, error) {
			calls++
			time.Sleep(2 * time.Second)
			return metrics.Stored{}, nil
		}})
		for range 60 { // two minutes: 2 s of reading in each 40 s
			scrape(t, m)
			time.Sleep(2 * time.Second)
		}
		if calls < 3 || calls > 4 {
			t.Errorf("%d reads, want one in 40 seconds", calls)
		}
	})
}

// TestStates verifies how states are shown: names of unknown tasks together, and those without a task as 0.
func TestStates(t *testing.T) {
	t.Parallel()
	m := newMetrics()
	m.Watch(metrics.Sources{
		Stored: func(context.Context) (metrics.Stored, error) {
			return metrics.Stored{
				Tasks: []metrics.TaskCount{
					{Name: "sign", State: "waiting", Tasks: 5, Ready: 3, Oldest: time.Minute, OldestReady: time.Second},
					{Name: "sign", State: "running", Tasks: 2, Oldest: time.Hour},
					{Name: "newer", State: "waiting", Tasks: 1, Oldest: time.Second},
					{Name: "newest", State: "waiting", Tasks: 1, Oldest: 2 * time.Second},
				},
				Services: []metrics.Service{{Name: "release", Workers: 2}, {Name: "old", Expires: time.Unix(1000, 0)}},
				Outbox:   4, OutboxOldest: time.Minute,
			}, nil
		},
		Pool: func() metrics.Pool {
			return metrics.Pool{InUse: 1, Idle: 2, Max: 3, Waits: 4, Waited: time.Second, Queued: 5}
		},
		Audit:       func() (int, int64) { return 6, 7 },
		Certificate: func() time.Time { return time.Unix(2000, 0) },
		Space:       func(context.Context) (metrics.Space, error) { return metrics.Space{}, errors.New("no data directory") },
	})
	text := scrape(t, m)
	wantLine(t, text,
		`countersign_tasks{name="sign",state="waiting"} 5`, `countersign_tasks{name="sign",state="running"} 2`,
		`countersign_tasks{name="sign",state="canceling"} 0`, `countersign_tasks{name="other",state="waiting"} 2`,
		`countersign_task_queue_length{name="sign"} 3`, `countersign_task_oldest_waiting_seconds{name="sign"} 60`,
		`countersign_task_oldest_ready_seconds{name="sign"} 1`, `countersign_task_oldest_waiting_seconds{name="other"} 2`,
		`countersign_signing_service_workers{service="release"} 2`,
		`countersign_signing_key_expiry_timestamp_seconds{service="release"} +Inf`,
		`countersign_signing_key_expiry_timestamp_seconds{service="old"} 1000`,
		`countersign_outbox_tags 4`, `countersign_outbox_oldest_seconds 60`,
		`countersign_database_connections{state="in_use"} 1`, `countersign_database_connection_wait_seconds_total 1`,
		`countersign_database_queued_writes 5`, `countersign_audit_lost_rows_total 7`, `countersign_tls_certificate_expiry_timestamp_seconds 2000`,
	)
	if strings.Contains(text, "countersign_data_filesystem") {
		t.Error("the scrape has a size that could not be read")
	}
	wantLine(t, scrape(t, m), `countersign_signatures_total{result="made",service="release"} 0`)
}

// TestBoundedLabels verifies that clients and remotes cannot add values of labels.
func TestBoundedLabels(t *testing.T) {
	t.Parallel()
	m := newMetrics()
	count := func() int { return strings.Count(scrape(t, m), "\n") }
	end := func(e telemetry.Exchange) {
		m.RequestStarted(e.Method)
		m.RequestEnded(e)
	}
	peer := m.Peer("remote")
	end(telemetry.Exchange{Method: "FIRST", Status: 404})
	m.TaskEnded("first", "completed", 0)
	peer.ClientRequestEnded("FIRST", 799, 0)
	before := count()
	for _, text := range []string{"A", "B", "C"} {
		end(telemetry.Exchange{Method: text, Status: 404})
		m.TaskEnded(text, "completed", 0)
		peer.ClientRequestEnded(text, 700+int(text[0]), 0)
	}
	if after := count(); after != before {
		t.Errorf("the exposition has grown from %d to %d lines", before, after)
	}
	wantLine(t, scrape(t, m), `http_server_active_requests{http_request_method="_OTHER"} 0`)
}

// BenchmarkRequest measures the cost of the metrics of one request.
func BenchmarkRequest(b *testing.B) {
	m := newMetrics()
	for b.Loop() {
		m.RequestStarted(http.MethodGet)
		m.RequestEnded(telemetry.Exchange{Method: http.MethodGet, Route: "/v2/{name}/manifests/{reference}", Status: 200, Took: time.Millisecond})
	}
}
