"""Many workers: a supervisor with a process on each slot, in the background, or over a Ray cluster."""
