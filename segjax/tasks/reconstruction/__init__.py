"""Masked autoencoding (MAE pretraining)."""
