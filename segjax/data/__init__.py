"""Data: raw sources, records, prepared folders, training examples and the loader."""
