"""Studies, their designs and who runs which point."""
