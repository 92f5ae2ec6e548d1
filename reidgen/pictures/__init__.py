"""Pictures of one trained run."""
