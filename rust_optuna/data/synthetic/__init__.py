"""SYNTHETIC films, drawn with a model of the physics."""
