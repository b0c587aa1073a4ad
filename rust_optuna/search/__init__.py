"""Studies, their designs and who runs which point: the one database."""
