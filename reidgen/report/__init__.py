"""The report: one HTML page of everything there is. No torch."""
