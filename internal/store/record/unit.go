package record

import (
	"github.com/countersign/countersign/internal/pulp"
)

// Unit identifies a content unit.
type Unit struct {
	Kind pulp.Kind `json:"kind"`
	ID   string    `json:"id"`
}
