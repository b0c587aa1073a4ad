"""What `make bench` runs: every figure as a ratio between two sides measured in turn on the same machine."""
