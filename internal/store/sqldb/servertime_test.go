package sqldb_test

import (
	"testing"
	"time"

	"github.com/countersign/countersign/internal/store/storetest"
)

// TestServerTime compares the clock of the database with that of this machine, on which tests run both.
func TestServerTime(t *testing.T) {
	t.Parallel()
	before := time.Now().Add(-time.Second)
	at, err := storetest.Open(t).DB.ServerTime(t.Context())
	if err != nil || at.Before(before) || at.After(time.Now().Add(time.Second)) {
		t.Errorf("ServerTime = %v, %v, want now", at, err)
	}
}
