"""Mask R-CNN: training targets, losses and COCO evaluation."""
