"""Label maps: finding the map of each image, and the objects in it."""
