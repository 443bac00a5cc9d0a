//go:build !cgo

package main

import (
	"context"
	"errors"
)

func (*registry) makeToken(context.Context, string) (string, func(context.Context) error, error) {
	return "", nil, errors.New("PKCS #11 requires a build with cgo")
}
