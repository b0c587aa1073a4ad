"""Whole stories on this machine: a search, its forecast, features ahead of the workers, the demo."""
