"""Export of SAM to ONNX, with the names and rules of segment-anything."""
