package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/countersign/countersign/internal/safefile"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/storage"
	"github.com/countersign/countersign/storage/embedded"
	"github.com/countersign/countersign/storage/upstream"
)

// inlineLimit is the size in bytes up to which a blob is stored in the database.
const inlineLimit = 16 << 10

// Values of storageSetting.
const (
	inFiles    = "storage of its own"
	inUpstream = "an upstream registry"
)

// storageSetting is the name of the stored setting with the kind of storage that contains the blobs of this database.
const storageSetting = "storage"

// OpenStorage opens the storage of blobs: the upstream registry if there is one, otherwise the embedded storage.
func (a *App) OpenStorage(ctx context.Context) (storage.Storage, error) {
	c := a.config
	if c.UpstreamURL == "" {
		return embedded.New(ctx, embedded.Options{Driver: c.Storage.Driver, Parameters: c.Storage.Parameters})
	}
	if file := c.Upstream.PasswordFile; file != "" {
		a.warnOfReadableSecret(ctx, "upstream.password_file", file)
	}
	return upstream.New(upstream.Options{
		URL: c.UpstreamURL, Prefix: c.Upstream.Prefix, Username: c.Upstream.Username, Password: c.Upstream.Password.Reveal(),
		PasswordFile: c.Upstream.PasswordFile, Token: c.Upstream.Token.Reveal(), TokenHosts: c.Upstream.TokenHosts,
		CAFile: c.Upstream.CAFile, InsecureSkipVerify: c.Upstream.InsecureSkipVerify, WrapTransport: a.observePeer(peerUpstream),
	})
}

// checkStorage returns an error if the blobs of the database are in another kind of storage than the configured one:
// their images could not be pulled. The first call for a database records the kind.
func checkStorage(ctx context.Context, s *store.Store, upstream bool) error {
	is, help := inFiles, "set COUNTERSIGN_UPSTREAM_URL"
	if upstream {
		is, help = inUpstream, "unset COUNTERSIGN_UPSTREAM_URL"
	}
	blobs, front, err := s.Serving.KnowsBlobs(ctx)
	if err != nil {
		return err
	}
	was, err := s.DB.SettingOrCreate(ctx, storageSetting, func() ([]byte, error) {
		switch { // databases of versions that did not record the kind
		case front:
			return []byte(inUpstream), nil
		case blobs:
			return []byte(inFiles), nil
		}
		return []byte(is), nil
	})
	if err != nil || string(was) == is {
		return err
	}
	if !blobs {
		return s.DB.PutSetting(ctx, storageSetting, []byte(is))
	}
	return fmt.Errorf("the images of this database are in %s, but the configuration is for %s: %s, "+
		"or start with a new data directory (COUNTERSIGN_DATA) and a new database, and copy the images there", was, is, help)
}

// warnOfReadableSecret logs a warning if other users can read a file with a secret. It is not an error: earlier
// versions did not check, and container platforms mount such files readable by all.
func (a *App) warnOfReadableSecret(ctx context.Context, setting, file string) {
	if err := safefile.CheckSecret(file, setting); errors.Is(err, safefile.ErrUnsafe) {
		a.log.WarnContext(ctx, "other users can read a secret of the server", slog.String("setting", setting), slog.Any("err", err))
	}
}
