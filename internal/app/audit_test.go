package app_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/internal/app"
	"github.com/countersign/countersign/internal/app/apptest"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/list"
)

// TestAuditFile verifies that a server writes its entries to the file of the settings and to the database, that an
// orderly stop loses none, and that the log does not have them.
func TestAuditFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "audit.log")
	s := apptest.Start(t, apptest.Load(t, "AUDIT_FILE="+file))
	s.Push(t, "team/app", "v1")
	if status := s.Login(t, "mallory", "x"); status != 401 {
		t.Errorf("login: status %d", status)
	}
	s.Login(t, "mallory", "x")
	if err := s.Stop(t); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	type entry struct {
		Actor, Action, Object, Result string
		Count                         int64
	}
	var got []entry
	ids := map[string]bool{}
	for line := range strings.Lines(string(raw)) {
		var e struct {
			entry
			ID string
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		got, ids[e.ID] = append(got, e.entry), true
	}
	want := []entry{
		{"system", "sign", "test", "done", 1}, {"system", "add signing service", "countersign", "done", 1},
		{"system", "reset admin password", "admin", "done", 1},
		{"admin", "create repository", "team/app", "done", 1}, {"admin", "push blob", "team/app", "done", 1},
		{"admin", "push manifest", "team/app", "done", 1},
		{"anonymous", "login", "mallory", "denied", 1}, {"anonymous", "login", "mallory", "denied", 1},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	if strings.Contains(s.Log.String(), "msg=audit") || strings.Contains(string(raw), apptest.AdminPassword) {
		t.Errorf("the log has entries, or the file has the password:\n%s", s.Log)
	}
	a, _ := apptest.New(s.Config)
	err = a.WithExistingStore(t.Context(), func(s *store.Store) error {
		rows, _, err := list.AuditList.Rows(t.Context(), s.Lists, list.Query{Limit: 100})
		for _, e := range rows {
			delete(ids, e.ID)
		}
		if len(rows) != len(want) || len(ids) > 0 {
			t.Errorf("%d rows, and lines without rows: %v", len(rows), ids)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestAuditFileMustBeWritable verifies that neither a server nor a command runs with a destination that cannot be
// written.
func TestAuditFileMustBeWritable(t *testing.T) {
	t.Parallel()
	c := apptest.Load(t, "AUDIT_FILE="+t.TempDir())
	a, _ := apptest.New(c)
	if err := a.Serve(t.Context(), app.Greeting{Out: &apptest.Buffer{}}); err == nil || !strings.Contains(err.Error(), "audit.file") {
		t.Errorf("Serve = %v, want an error with the setting", err)
	}
	called := false
	err := a.WithAudit(t.Context(), nil, func(context.Context, *audit.Log) error { called = true; return nil })
	if err == nil || called {
		t.Errorf("WithAudit = %v, called: %t", err, called)
	}
}
