//go:build !cgo

package main

import (
	"context"
	"errors"
)

func (*registry) makeToken(context.Context, string) (string, func(context.Context) error, error) {
	return "", nil, errors.New("this program was built without cgo")
}
