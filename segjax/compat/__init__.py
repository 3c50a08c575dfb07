"""Drop-in interfaces of other libraries for segjax models."""
