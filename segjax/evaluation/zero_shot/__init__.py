"""The zero-shot evaluations of SAM's paper (arXiv 2304.02643, section 7)."""
