package content

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
)

// Policy decides which tags must be signed before they become visible. Its methods run in the transaction of the change and
// fail it with MissingSignatures.
type Policy interface {
	// Requires reports whether a repository shows signed tags only.
	Requires(t *Tx, r pulp.Repository) (bool, error)
	// CheckChange checks the tags that a change makes visible, and adds pending signatures of them to the change.
	CheckChange(c *Change) error
	// CheckLatest checks all tags of a repository's latest version.
	CheckLatest(t *Tx, repositoryID string) error
	// CheckDistribution checks all tags that a distribution shows.
	CheckDistribution(t *Tx, d pulp.Distribution) error
}

// MissingSignature is a signature that a tag must have.
type MissingSignature struct {
	Digest    digest.Digest `json:"digest"`    // of the manifest
	Reference string        `json:"reference"` // docker reference
}

// MissingSignatures is the error of a change that would show tags without required signatures. The change had no effect.
type MissingSignatures struct {
	RepositoryID string
	Namespace    string // of the repository
	Service      pulp.SigningService
	Missing      []MissingSignature
}

// Error returns the number of missing signatures and the first of them.
func (e *MissingSignatures) Error() string {
	return fmt.Sprintf("%d signatures are missing, of %s for %s and others", len(e.Missing), e.Missing[0].Digest, e.Missing[0].Reference)
}

// unsignedKey marks a context whose changes may show tags that are not signed.
type unsignedKey struct{}

// AllowUnsigned returns a context whose changes may show tags that are not signed. The caller dispatches a task that
// signs them.
func AllowUnsigned(ctx context.Context) context.Context {
	return context.WithValue(ctx, unsignedKey{}, true)
}

// MayBeUnsigned reports whether the change may show tags that are not signed.
func (t *Tx) MayBeUnsigned() bool { return t.unsigned }

// CheckDistribution applies the policy to a distribution that begins to serve a repository.
func (t *Tx) CheckDistribution(d pulp.Distribution) error {
	if t.store.policy == nil {
		return nil
	}
	return t.store.policy.CheckDistribution(t, d)
}

// requiresSignatures reports whether the repository shows signed tags only.
func (c *Change) requiresSignatures() (bool, error) {
	if c.Tx.store.policy == nil {
		return false, nil
	}
	return c.Tx.store.policy.Requires(c.Tx, c.Repo)
}

// checkSignatures applies the policy to the tags that the change makes visible.
func (c *Change) checkSignatures() error {
	if c.Tx.store.policy == nil {
		return nil
	}
	return c.Tx.store.policy.CheckChange(c)
}

// checkLatest applies the policy to all tags of a repository's latest version.
func (t *Tx) checkLatest(repositoryID string) error {
	if t.store.policy == nil {
		return nil
	}
	return t.store.policy.CheckLatest(t, repositoryID)
}
