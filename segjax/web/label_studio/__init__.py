"""Machine learning backend of Label Studio: prompts and pre-annotation by a SAM."""
