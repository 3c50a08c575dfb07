"""DINO, DINOv2 and DINOv3: vision transformers trained without labels."""
