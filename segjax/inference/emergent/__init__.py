"""Segmentation that emerges from the features and the attention of a network, without training."""
