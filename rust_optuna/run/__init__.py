"""What runs: a worker, a search on this machine, exports, the dashboard."""
