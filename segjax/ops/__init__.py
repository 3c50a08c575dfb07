"""Array functions with static shapes and no parameters: boxes, masks, resizing, RoI operations."""
