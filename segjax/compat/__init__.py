"""Calls of other libraries on segjax models."""
