"""One process that runs points: claimed, kept by a lease, computed, and reported."""
