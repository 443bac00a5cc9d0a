package sqldb

import (
	"context"
	"database/sql"
	"errors"
)

// Setting returns a value that the installation stores about itself, such as the token key; nil if there is none.
func (d *DB) Setting(ctx context.Context, name string) ([]byte, error) {
	var v []byte
	err := d.read.QueryRowContext(ctx, `SELECT value FROM setting WHERE name = $1`, name).Scan(&v)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return v, err
}

// SettingOrCreate returns a setting, storing the result of create if there is none. Processes that race all get the same value.
func (d *DB) SettingOrCreate(ctx context.Context, name string, create func() ([]byte, error)) ([]byte, error) {
	if v, err := d.Setting(ctx, name); err != nil || v != nil {
		return v, err
	}
	made, err := create()
	if err != nil {
		return nil, err
	}
	return InTx(ctx, d, func(t *Tx) (kept []byte, err error) {
		if _, err := t.Exec(`INSERT INTO setting (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING`, name, made); err != nil {
			return nil, err
		}
		err = t.Row(`SELECT value FROM setting WHERE name = $1`, name).Scan(&kept)
		return kept, err
	})
}

// PutSetting stores a setting, replacing an earlier value.
func (d *DB) PutSetting(ctx context.Context, name string, value []byte) error {
	return d.InTx(ctx, func(t *Tx) error {
		_, err := t.Exec(`INSERT INTO setting (name, value) VALUES ($1, $2)
			ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, value)
		return err
	})
}
