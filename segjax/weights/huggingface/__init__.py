"""Folders as Hugging Face publishes them."""
