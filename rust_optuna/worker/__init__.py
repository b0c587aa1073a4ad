"""The worker: one process that claims points, keeps them by a lease, computes them and reports their values."""
