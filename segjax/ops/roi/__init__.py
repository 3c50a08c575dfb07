"""Regions of interest: RoIAlign, RoIPool, pyramid levels, mask targets and pasting of masks."""
