package sqldb_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/countersign/countersign/internal/store/storetest"
)

func TestSetting(t *testing.T) {
	t.Parallel()
	d := storetest.Open(t).DB
	if v, err := d.Setting(t.Context(), "a"); err != nil || v != nil {
		t.Errorf("an absent setting = %q, %v, want nil", v, err)
	}
	for _, want := range []string{"1", "2"} {
		if err := d.PutSetting(t.Context(), "a", []byte(want)); err != nil {
			t.Fatal(err)
		}
		if v, err := d.Setting(t.Context(), "a"); err != nil || string(v) != want {
			t.Errorf("the setting = %q, %v, want %q", v, err, want)
		}
	}
}

// TestSettingOrCreate creates one setting from several goroutines: all get the same value.
func TestSettingOrCreate(t *testing.T) {
	t.Parallel()
	d := storetest.Open(t).DB
	failed := errors.New("no entropy")
	if _, err := d.SettingOrCreate(t.Context(), "key", func() ([]byte, error) { return nil, failed }); !errors.Is(err, failed) {
		t.Errorf("SettingOrCreate = %v, want the error of create", err)
	}
	values := make([]string, 8)
	var calls sync.WaitGroup
	for i := range values {
		calls.Go(func() {
			v, err := d.SettingOrCreate(t.Context(), "key", func() ([]byte, error) { return []byte(fmt.Sprint("value ", i)), nil })
			if err != nil {
				t.Error(err)
			}
			values[i] = string(v)
		})
	}
	calls.Wait()
	for _, v := range values {
		if v != values[0] || v == "" {
			t.Fatalf("SettingOrCreate returned %q, want one value", values)
		}
	}
}
