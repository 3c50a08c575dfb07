"""Image classification: linear probe, fine-tuning and nearest neighbors."""
