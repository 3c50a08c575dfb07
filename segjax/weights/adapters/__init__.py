"""Low-rank adapters (LoRA): their math, merging into kernels, and files of their own."""
