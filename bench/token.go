//go:build cgo

package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/miekg/pkcs11"
)

const tokenPIN = "4711"

// softHSM is where Debian has SoftHSM's library.
const softHSM = "/usr/lib/softhsm/libsofthsm2.so"

// makeToken adds a service of an RSA-2048 key in a token of SoftHSM, and returns its name and the token's bare operation.
func (r *registry) makeToken(ctx context.Context, dir string) (string, func(context.Context) error, error) {
	if _, err := os.Stat(softHSM); err != nil {
		return "", nil, err
	}
	files := filepath.Join(dir, "tokens")
	if err := os.Mkdir(files, 0o700); err != nil {
		return "", nil, err
	}
	if err := os.WriteFile(tokenConfig(dir), []byte("directories.tokendir = "+files+"\nlog.level = ERROR\n"), 0o600); err != nil {
		return "", nil, err
	}
	if err := os.Setenv("SOFTHSM2_CONF", tokenConfig(dir)); err != nil {
		return "", nil, err
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return "", nil, err
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", nil, err
	}
	text, pin := filepath.Join(dir, "token-key.pem"), filepath.Join(dir, "pin")
	if err := errors.Join(os.WriteFile(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), 0o600), os.WriteFile(pin, []byte(tokenPIN), 0o600)); err != nil {
		return "", nil, err
	}
	for _, arguments := range [][]string{
		{"--init-token", "--free", "--label", "bench", "--so-pin", tokenPIN, "--pin", tokenPIN},
		{"--import", text, "--token", "bench", "--label", "rsa", "--id", "01", "--pin", tokenPIN},
	} {
		if said, err := exec.CommandContext(ctx, "softhsm2-util", arguments...).CombinedOutput(); err != nil {
			return "", nil, fmt.Errorf("softhsm2-util: %w: %.300s", err, said)
		}
	}
	uri := fmt.Sprintf("pkcs11:token=bench;object=rsa;type=private?module-path=%s&pin-source=file:%s", softHSM, pin)
	if err := r.cli(ctx, "add-signing-service", "token", "--pkcs11-uri", uri, "--user-id", "bench <bench@example.com>"); err != nil {
		return "", nil, err
	}
	bare, err := bareToken()
	return "token", bare, err
}

// bareToken opens sessions with the token and returns what signs in one of them.
func bareToken() (func(context.Context) error, error) {
	p := pkcs11.New(softHSM)
	if p == nil {
		return nil, errors.New("SoftHSM's library cannot be loaded")
	}
	if err := p.Initialize(); err != nil {
		return nil, err
	}
	slots, err := p.GetSlotList(true)
	if err != nil {
		return nil, err
	}
	type session struct {
		handle pkcs11.SessionHandle
		key    pkcs11.ObjectHandle
	}
	free := make(chan session, scriptParallel)
	for n := range scriptParallel {
		s, err := p.OpenSession(slots[0], pkcs11.CKF_SERIAL_SESSION)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			if err := p.Login(s, pkcs11.CKU_USER, tokenPIN); err != nil {
				return nil, err
			}
		}
		if err := p.FindObjectsInit(s, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY)}); err != nil {
			return nil, err
		}
		found, _, err := p.FindObjects(s, 1)
		if err != nil || len(found) != 1 {
			return nil, fmt.Errorf("the token's key: %d found, %w", len(found), err)
		}
		if err := p.FindObjectsFinal(s); err != nil {
			return nil, err
		}
		free <- session{s, found[0]}
	}
	digest := sha256.Sum256([]byte("x"))
	return func(context.Context) error {
		s := <-free
		defer func() { free <- s }()
		if err := p.SignInit(s.handle, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_SHA256_RSA_PKCS, nil)}, s.key); err != nil {
			return err
		}
		_, err := p.Sign(s.handle, digest[:])
		return err
	}, nil
}
