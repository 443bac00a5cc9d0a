package store

import (
	"context"
	"database/sql"
	"errors"
)

// Setting returns a value that the installation keeps about itself; nil when there is none.
func (s *Store) Setting(ctx context.Context, name string) ([]byte, error) {
	var v []byte
	err := s.read.QueryRowContext(ctx, `SELECT value FROM setting WHERE name = $1`, name).Scan(&v)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return v, err
}

// SettingOrCreate returns a setting and, where there is none, keeps what create makes. Of processes that race, all get the value of one.
func (s *Store) SettingOrCreate(ctx context.Context, name string, create func() ([]byte, error)) ([]byte, error) {
	if v, err := s.Setting(ctx, name); err != nil || v != nil {
		return v, err
	}
	made, err := create()
	if err != nil {
		return nil, err
	}
	var kept []byte
	err = s.inTx(ctx, func(t *tx) error {
		if _, err := t.exec(`INSERT INTO setting (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING`, name, made); err != nil {
			return err
		}
		return t.row(`SELECT value FROM setting WHERE name = $1`, name).Scan(&kept)
	})
	return kept, err
}

// PutSetting keeps a setting, in the place of what was there.
func (s *Store) PutSetting(ctx context.Context, name string, value []byte) error {
	return s.inTx(ctx, func(t *tx) error {
		_, err := t.exec(`INSERT INTO setting (name, value) VALUES ($1, $2)
			ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, value)
		return err
	})
}
