"""CLIP (arXiv 2103.00020): an image tower and a text tower with one space of embeddings."""
