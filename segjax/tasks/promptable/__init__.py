"""Promptable segmentation (SAM): interactive training and evaluation."""
