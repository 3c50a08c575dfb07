"""Commands that measure files of any method: `segjax eval edges`, `segjax eval panoptic`."""
