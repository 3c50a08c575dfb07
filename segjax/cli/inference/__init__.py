"""Commands that apply a model to images: predict, everything, detect, reconstruct."""
