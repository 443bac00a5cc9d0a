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

// softHSM is the path of SoftHSM's library on Debian.
const softHSM = "/usr/lib/softhsm/libsofthsm2.so"

// makeToken adds a signing service with an RSA-2048 key in a SoftHSM token. It returns the name of the service and a
// function that makes a signature with the token alone.
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
	encoded := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
	if err := errors.Join(os.WriteFile(text, encoded, 0o600), os.WriteFile(pin, []byte(tokenPIN), 0o600)); err != nil {
		return "", nil, err
	}
	for _, arguments := range [][]string{
		{"--init-token", "--free", "--label", "bench", "--so-pin", tokenPIN, "--pin", tokenPIN},
		{"--import", text, "--token", "bench", "--label", "rsa", "--id", "01", "--pin", tokenPIN},
	} {
		if output, err := exec.CommandContext(ctx, "softhsm2-util", arguments...).CombinedOutput(); err != nil {
			return "", nil, fmt.Errorf("softhsm2-util: %w: %.300s", err, output)
		}
	}
	uri := fmt.Sprintf("pkcs11:token=bench;object=rsa;type=private?module-path=%s&pin-source=file:%s", softHSM, pin)
	if err := r.cli(ctx, "add-signing-service", "token", "--pkcs11-uri", uri, "--user-id", "bench <bench@example.com>"); err != nil {
		return "", nil, err
	}
	bare, err := bareToken()
	return "token", bare, err
}

// bareToken opens sessions with the token and returns a function that signs in one of them.
func bareToken() (func(context.Context) error, error) {
	p := pkcs11.New(softHSM)
	if p == nil {
		return nil, errors.New("cannot load SoftHSM's library")
	}
	if err := p.Initialize(); err != nil {
		return nil, err
	}
	slots, err := p.GetSlotList(true)
	if err != nil {
		return nil, err
	}
	free := make(chan tokenSession, scriptParallel)
	for n := range scriptParallel {
		s, err := openTokenSession(p, slots[0], n == 0)
		if err != nil {
			return nil, err
		}
		free <- s
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

// tokenSession is a session with a token and the handle of the token's only private key.
type tokenSession struct {
	handle pkcs11.SessionHandle
	key    pkcs11.ObjectHandle
}

// openTokenSession opens a session. The first session of a program has to log in.
func openTokenSession(p *pkcs11.Ctx, slot uint, login bool) (tokenSession, error) {
	s, err := p.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION)
	if err != nil {
		return tokenSession{}, err
	}
	if login {
		if err := p.Login(s, pkcs11.CKU_USER, tokenPIN); err != nil {
			return tokenSession{}, err
		}
	}
	if err := p.FindObjectsInit(s, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY)}); err != nil {
		return tokenSession{}, err
	}
	found, _, err := p.FindObjects(s, 1)
	if err != nil || len(found) != 1 {
		return tokenSession{}, fmt.Errorf("find the token's key: %d keys, %w", len(found), err)
	}
	return tokenSession{s, found[0]}, p.FindObjectsFinal(s)
}
