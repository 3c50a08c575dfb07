"""Training examples from records, one file per task."""
