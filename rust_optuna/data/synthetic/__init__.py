"""SYNTHETIC films, drawn by physics."""
