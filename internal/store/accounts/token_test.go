package accounts_test

import (
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/storetest"
)

// TestCreateToken verifies that the database has a hash of the secret and its first characters only.
func TestCreateToken(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	alice := user(t, s, "alice")
	expires := time.Now().Add(time.Hour).Truncate(time.Microsecond)
	made, secret, err := s.Accounts.CreateToken(t.Context(), pulp.APIToken{AccountID: alice.ID, Name: "login", Expires: expires})
	if err != nil || !strings.HasPrefix(secret, "cst_") || len(secret) < 30 || made.Hint != secret[:8] || made.Created.IsZero() {
		t.Fatalf("CreateToken = %+v, %q, %v", made, secret, err)
	}
	var hash, hint string
	var until int64
	if err := s.DB.Read().QueryRowContext(t.Context(), `SELECT hash, hint, expires FROM api_token WHERE account_id = $1`, alice.ID).
		Scan(&hash, &hint, &until); err != nil {
		t.Fatal(err)
	}
	if len(hash) != 64 || strings.Contains(hash, secret) || hint != secret[:8] || until != expires.UnixMicro() {
		t.Errorf("stored hash %q, hint %q, expires %d", hash, hint, until)
	}
	if _, _, err := s.Accounts.CreateToken(t.Context(), pulp.APIToken{AccountID: -1}); !fault.Is(err, fault.NotFound) {
		t.Errorf("a token of no account: %v", err)
	}
}
