"""Persistent storage: the database on each back end, its tables, and the artifact store."""
