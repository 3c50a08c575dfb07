"""Metrics. Predictions come in as arrays or functions; no model is imported."""
