"""Local pages with crops: one HTML file each that opens anywhere and asks nobody for anything. No torch."""
