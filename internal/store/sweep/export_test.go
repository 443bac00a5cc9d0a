package sweep

// Conditions of the sweeps, for the test of their plans.
const (
	OldPending   = oldPending
	OldFetched   = oldFetched
	Unreferenced = unreferenced
	Named        = named
)
