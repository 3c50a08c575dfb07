"""Mask R-CNN inference: from images to detections in one call, and export."""
