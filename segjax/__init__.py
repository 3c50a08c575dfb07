"""segjax: promptable and closed-vocabulary image segmentation in JAX."""
