"""The built-in benchmark: people, scenes and cameras drawn from parameters."""
