"""What a mask shows: names from CLIP for masks, boxes and pixels."""
