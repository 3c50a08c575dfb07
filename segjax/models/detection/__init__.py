"""Mask R-CNN (arXiv 1703.06870) and its relatives: detectors with boxes, masks and keypoints."""
