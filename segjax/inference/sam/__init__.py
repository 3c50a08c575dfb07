"""SAM inference: predictor, automatic mask generation, and the steps between them and the model."""
