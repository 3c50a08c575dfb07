"""CLIP for users: loading, images and texts as vectors, names for images."""
