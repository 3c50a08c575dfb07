"""What a run says and writes: first lines, progress, metrics and images."""
