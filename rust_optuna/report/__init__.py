"""Pictures of numbers that are made elsewhere."""
