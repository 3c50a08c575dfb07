"""Mask R-CNN for users: one call from images to detections, and export."""
