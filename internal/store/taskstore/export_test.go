package taskstore

// Ready is ready, for tests.
const Ready = ready

// Place, Some, Queued and WaitsBesides are the parts of statements whose plans tests read.
var (
	Place        = place
	Some         = some
	Queued       = queued
	WaitsBesides = waitsBesides
)
