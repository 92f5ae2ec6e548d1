"""How good will it be on cameras whose people nobody has named: what can be measured, and pairs that a person labels."""
