package strictjson_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/internal/strictjson"
)

// accept is a visit function without an opinion.
func accept(json.Token, int) error { return nil }

func TestWalk(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		json string
		want error
	}{
		"scalar":               {json: ` 1 `},
		"null":                 {json: `null`},
		"nested":               {json: `{"a":[{"b":{}},[],"x"],"b":1}`},
		"same key elsewhere":   {json: `{"a":{"a":[{"a":1},{"a":2}]},"b":{"a":1}}`},
		"keys by case":         {json: `{"a":1,"A":2}`},
		"empty":                {json: ``, want: strictjson.ErrSyntax},
		"cut off":              {json: `{"a":`, want: strictjson.ErrSyntax},
		"trailing comma":       {json: `[1,]`, want: strictjson.ErrSyntax},
		"mismatched brackets":  {json: `[1}`, want: strictjson.ErrSyntax},
		"key that is a number": {json: `{1:2}`, want: strictjson.ErrSyntax},
		"second value":         {json: `{} {}`, want: strictjson.ErrTrailing},
		"text after the value": {json: `1 x`, want: strictjson.ErrTrailing},
		"invalid UTF-8":        {json: "\"\xff\"", want: strictjson.ErrUTF8},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := strictjson.Walk([]byte(tt.json), accept); !errors.Is(err, tt.want) {
				t.Errorf("Walk(%s) = %v, want %v", tt.json, err, tt.want)
			}
		})
	}
}

// TestDuplicateKeys verifies that Walk finds duplicates at every level, also when their spellings in JSON differ.
func TestDuplicateKeys(t *testing.T) {
	t.Parallel()
	for _, text := range []string{`{"a":1,"a":1}`, `{"b":[0,{"a":{},"c":[],"a":1}]}`, `{"a":1,"\u0061":2}`, `[{"a":{"b":1}},{"a":1,"b":2,"a":3}]`} {
		err := strictjson.Walk([]byte(text), accept)
		if duplicate, ok := errors.AsType[*strictjson.DuplicateKeyError](err); !ok || duplicate.Key != "a" {
			t.Errorf("Walk(%s) = %v, want a duplicate key a", text, err)
		}
	}
}

// TestVisit verifies the tokens and depths that visit receives, and that its error ends the walk.
func TestVisit(t *testing.T) {
	t.Parallel()
	var got []string
	visit := func(token json.Token, depth int) error {
		got = append(got, fmt.Sprintf("%d %T %v", depth, token, token))
		return nil
	}
	if err := strictjson.Walk([]byte(`{"a":[1.50,"x",null],"b":{}}`), visit); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"0 json.Delim {", "1 string a", "1 json.Delim [", "2 json.Number 1.50", "2 string x", "2 <nil> <nil>", "1 string b", "1 json.Delim {",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("visits (-want +got):\n%s", diff)
	}
	stop := errors.New("stop")
	calls := 0
	err := strictjson.Walk([]byte(`[1,2,3`), func(json.Token, int) error {
		if calls++; calls == 2 {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) || calls != 2 {
		t.Errorf("Walk = %v after %d visits, want the error of the second visit", err, calls)
	}
}

func TestObject(t *testing.T) {
	t.Parallel()
	got, err := strictjson.Object([]byte(`{"a": {"x":1,"x":2}, "b":null}`))
	want := map[string]json.RawMessage{"a": json.RawMessage(`{"x":1,"x":2}`), "b": json.RawMessage("null")}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("Object: %v (-want +got):\n%s", err, diff)
	}
	for text, want := range map[string]error{`[]`: strictjson.ErrNotObject, `null`: strictjson.ErrNotObject, ``: strictjson.ErrNotObject, `{"a"`: strictjson.ErrSyntax} {
		if _, err := strictjson.Object([]byte(text)); !errors.Is(err, want) {
			t.Errorf("Object(%s) = %v, want %v", text, err, want)
		}
	}
	_, err = strictjson.Object([]byte(`{"a":1,"b":2,"a":3}`))
	if duplicate, ok := errors.AsType[*strictjson.DuplicateKeyError](err); !ok || duplicate.Key != "a" {
		t.Errorf("Object with a duplicate = %v", err)
	}
}

func TestDecode(t *testing.T) {
	t.Parallel()
	var v any
	if err := strictjson.Decode([]byte(`{"a":1e400,"a":12345678901234567890}`), &v); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]any{"a": json.Number("12345678901234567890")}, v); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := strictjson.Decode([]byte(`{} x`), &v); !errors.Is(err, strictjson.ErrTrailing) {
		t.Errorf("Decode with trailing text = %v, want ErrTrailing", err)
	}
	if err := strictjson.Decode([]byte(`{`), &v); err == nil {
		t.Error("Decode of a text that is cut off succeeded")
	}
}

// FuzzWalk verifies that encoding/json accepts all that Walk accepts, and that Walk accepts all that encoding/json writes.
func FuzzWalk(f *testing.F) {
	for _, seed := range []string{`{"a":[1,{"b":null}]}`, `{"a":1,"a":2}`, `[1,]`, `"\ud800"`, strings.Repeat("[", 100)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strictjson.Walk([]byte(text), accept) != nil {
			return
		}
		var v any
		if err := strictjson.Decode([]byte(text), &v); err != nil {
			t.Fatalf("Walk accepts %q, encoding/json does not: %v", text, err)
		}
		again, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if err := strictjson.Walk(again, accept); err != nil {
			t.Errorf("Walk(%s) = %v, want nil: encoding/json wrote it", again, err)
		}
	})
}
