"""COCO's annotation format: files, values, segmentations, boxes, keypoints and image names."""
