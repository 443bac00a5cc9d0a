package auth

import (
	"fmt"

	"golang.org/x/crypto/bcrypt"

	"github.com/countersign/countersign/internal/fault"
)

// cost is the bcrypt cost of stored hashes. One comparison takes about 50 ms.
const cost = bcrypt.DefaultCost

// decoyHash is the bcrypt hash of discarded random bytes with the same cost.
const decoyHash = "$2a$10$TXvOQHQ3rraAFhCJ.dBjuujUA7Egi.s6I0yUjWBbMtVzsL6vjHqKq"

// HashPassword returns the hash of a password for the database. The error is Invalid if the password is empty or longer
// than 72 bytes.
func HashPassword(password string) (string, error) {
	if err := CheckPasswordLength(password); err != nil {
		return "", err
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(password), cost)
	if err != nil {
		return "", fmt.Errorf("hash password: %w", err)
	}
	return string(hash), nil
}

func checkPassword(hash, password string) bool {
	return len(password) <= maxPassword && bcrypt.CompareHashAndPassword([]byte(hash), []byte(password)) == nil
}

// CheckPasswordLength returns an error if a password is empty or longer than 72 bytes.
func CheckPasswordLength(password string) error {
	if password == "" || len(password) > maxPassword {
		return fault.Field("password", "A password has 1 to %d bytes.", maxPassword)
	}
	return nil
}
