package upstreamstate

// Lateness is lateness, for tests.
const Lateness = lateness
