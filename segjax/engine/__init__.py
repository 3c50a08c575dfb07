"""Data engine: a folder of images, its committed objects, retraining rounds, automatic masks."""
