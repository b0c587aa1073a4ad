"""The migrations, one module for each version of the ledger's tables."""
