"""Inference: loading models, and predicting with them."""
