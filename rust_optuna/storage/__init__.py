"""What is kept, and where: the one database on each back end, its tables, and the artifact store."""
