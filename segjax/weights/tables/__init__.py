"""Names of parameters in published files, one table per model and library."""
