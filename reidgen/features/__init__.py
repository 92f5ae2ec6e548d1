"""Embeddings of people's own crops: made and kept, searched, and shown on a page."""
