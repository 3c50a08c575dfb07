"""Names of parameters in published files, one table per family of names."""
