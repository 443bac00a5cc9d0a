package auth_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/pulp"
)

func TestPasswordFaults(t *testing.T) {
	t.Parallel()
	const (
		short   = "This password is too short. It must contain at least 8 characters."
		common  = "This password is too common."
		numeric = "This password is entirely numeric."
		similar = "The password is too similar to the "
	)
	u := pulp.User{Username: "release-manager", FirstName: "Rosalind", LastName: "", Email: "rosa@engineering.example.com"}
	for password, want := range map[string][]string{
		"Zx9!kkpq12":             nil,
		"abc":                    {short, common},
		"":                       {short},
		"1234567":                {short, common, numeric},
		"98412375112":            {numeric},
		"Password1":              {common},
		" password1 ":            {common},
		"release-manager":        {similar + "username."},
		"Release-Manager7":       {similar + "username."},
		"manager7":               {similar + "username."},
		"rosalind1":              {similar + "first name."},
		"engineering1":           {similar + "email address."},
		"rosarosa":               nil, // 8 of 12 characters
		"ääääääää":               nil,
		"äbcdefg":                {short},
		strings.Repeat("x", 900): nil,
	} {
		if got := auth.PasswordFaults(password, u); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", password, got, want)
		}
	}
}
