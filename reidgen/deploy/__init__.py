"""From a trained run to a file that runs elsewhere, and the card that goes with it."""
