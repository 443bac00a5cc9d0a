package record

import (
	"github.com/countersign/countersign/internal/pulp"
)

// Unit is a content unit by its kind and id.
type Unit struct {
	Kind pulp.Kind `json:"kind"`
	ID   string    `json:"id"`
}
