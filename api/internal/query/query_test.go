package query

import (
	"encoding/json"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/internal/store/list"
)

func TestSplit(t *testing.T) {
	t.Parallel()
	got, err := Split("name__in", []string{"a, b", "", ",c,"})
	if diff := cmp.Diff([]string{"a", "b", "c"}, got); diff != "" || err != nil {
		t.Errorf("error %v; parts (-want +got):\n%s", err, diff)
	}
	if _, err := Split("name__in", []string{strings.Repeat("x,", maxValues)}); err != nil {
		t.Errorf("%d values: %v", maxValues, err)
	}
	if _, err := Split("name__in", []string{strings.Repeat("x,", maxValues+1)}); err == nil {
		t.Errorf("%d values: no error", maxValues+1)
	}
}

func TestOrder(t *testing.T) {
	t.Parallel()
	got, err := Order(url.Values{"ordering": {"-name,pulp_id", "name"}}, []string{"name", "pulp_id"})
	want := []list.Order{{Field: "name", Desc: true}, {Field: "pulp_id"}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("error %v; order (-want +got):\n%s", err, diff)
	}
	if _, err := Order(url.Values{"ordering": {"size"}}, []string{"name"}); err == nil {
		t.Error("an unknown field: no error")
	}
}

func TestPageOf(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]Page{
		"":                                  {Limit: defaultLimit},
		"limit=5&offset=7":                  {Limit: 5, Offset: 7},
		"limit=0&offset=-1":                 {Limit: defaultLimit},
		"limit=abc&offset=abc":              {Limit: defaultLimit},
		"limit=20000&offset=99999999999999": {Limit: maxLimit, Offset: maxOffset},
	} {
		values, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		if got := PageOf(values); got != want {
			t.Errorf("%q: %+v, want %+v", query, got, want)
		}
	}
}

func TestLinks(t *testing.T) {
	t.Parallel()
	r := httptest.NewRequestWithContext(t.Context(), "GET", "http://registry.example/list/?limit=2&offset=2&name=a", nil)
	r.Header.Set("X-Forwarded-Proto", "https")
	next, previous := Page{Limit: 2, Offset: 2}.Links(r, r.URL.Query(), 5)
	if next == nil || *next != "https://registry.example/list/?limit=2&name=a&offset=4" {
		t.Errorf("next %v", next)
	}
	if previous == nil || *previous != "https://registry.example/list/?limit=2&name=a" {
		t.Errorf("previous %v", previous)
	}
	if next, previous = (Page{Limit: 10}).Links(r, r.URL.Query(), 10); next != nil || previous != nil {
		t.Errorf("the only page has the links %v and %v", next, previous)
	}
}

func TestSelection(t *testing.T) {
	t.Parallel()
	s, err := SelectionOf(url.Values{"fields": {"a,b"}, "exclude_fields": {"b"}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Of(map[string]int{"a": 1, "b": 2, "c": 3})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]json.RawMessage{"a": json.RawMessage("1")}, got); diff != "" {
		t.Errorf("fields (-want +got):\n%s", diff)
	}
	if !s.Has("a") || s.HasAny("b", "c") {
		t.Errorf("a is selected: %t; b or c: %t", s.Has("a"), s.HasAny("b", "c"))
	}
}
