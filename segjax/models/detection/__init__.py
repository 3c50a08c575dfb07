"""Mask R-CNN (arXiv 1703.06870) and its kin: detectors that find boxes of known classes, with masks and keypoints."""
