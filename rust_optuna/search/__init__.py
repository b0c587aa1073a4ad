"""Studies, their designs, and the ledger of which worker runs which point."""
