"""Text for CLIP: tokenizers, their vocabularies, and templates of prompts."""
