package auth

import (
	"fmt"

	"golang.org/x/crypto/bcrypt"

	"github.com/countersign/countersign/internal/fault"
)

// cost makes one check take some 50 ms, on which Login's memory saves.
const cost = bcrypt.DefaultCost

// decoyHash is the bcrypt hash, of the same cost, of random bytes that were thrown away.
const decoyHash = "$2a$10$TXvOQHQ3rraAFhCJ.dBjuujUA7Egi.s6I0yUjWBbMtVzsL6vjHqKq"

// HashPassword returns what to store of a password. Invalid when it is empty or longer than 72 bytes.
func HashPassword(password string) (string, error) {
	if password == "" || len(password) > maxPassword {
		return "", fault.Field("password", "A password has 1 to %d bytes.", maxPassword)
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
