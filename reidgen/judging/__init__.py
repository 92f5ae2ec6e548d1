"""How good a run will be on crops of people whom nobody has named: measures without labels, and pairs to label."""
