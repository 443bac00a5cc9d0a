package upstreamstate

import ()

import ()

// Lateness is lateness, for tests.
const Lateness = lateness
