package app

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"

	"github.com/countersign/countersign/internal/store"
)

// settingHosts is the setting that lists, as JSON, the hosts under which this installation may have signed: all that public_url had.
const settingHosts = "public_hosts"

// warnOfFormerHosts logs each host that public_url had once and that signatures still name. Clients that require a signature refuse those images under the present host.
// A host that no signature names any more is forgotten.
func (p *Program) warnOfFormerHosts(s *store.Store) error {
	present := p.config.Public().Host
	hosts := []string{p.config.WrittenHost()} // versions before the setting signed with the host as it was written
	kept, err := s.Setting(p.ctx, settingHosts)
	if err != nil {
		return err
	}
	if kept != nil {
		if err := json.Unmarshal(kept, &hosts); err != nil {
			return fmt.Errorf("setting %s: %w", settingHosts, err)
		}
	}
	remaining := []string{present}
	for _, host := range hosts {
		if slices.Contains(remaining, host) {
			continue
		}
		named, err := s.HasSignaturesOf(p.ctx, host)
		if err != nil {
			return err
		}
		if !named {
			continue
		}
		remaining = append(remaining, host)
		p.log.WarnContext(p.ctx, "signatures name a host that public_url no longer has; clients that require signatures refuse images that have no others: sign those again",
			slog.String("host", host), slog.String("public_url", p.config.Public().String()), slog.String("help", "docs/operations.md, \"When public_url changes\""))
	}
	if kept != nil && slices.Equal(remaining, hosts) {
		return nil
	}
	text, err := json.Marshal(remaining)
	if err != nil {
		return err
	}
	return s.PutSetting(p.ctx, settingHosts, text)
}
