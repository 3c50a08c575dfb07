"""Decoding, resizing and placing images on a canvas (NumPy and Pillow only)."""
