"""Contrastive pretraining of CLIP on objects with phrases."""
